"""Read and write safetensors files with numpy alone.

A file is: u64 little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the raw
little-endian tensors. `write` is deterministic: names are laid out in sorted order and the header is padded with
spaces so that data starts on 8 bytes. Bad files raise ValueError.
"""
import json
import struct

import numpy as np

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}


def write(path, tensors, metadata=None):
    """Writes {name: array}; `metadata` is an optional {str: str} stored under `__metadata__`."""
    header, blobs, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name]))
        blob = array.tobytes()
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read(path):
    """Returns {name: array}; `__metadata__` is left out."""
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < 8:
        raise ValueError(f"{path}: {len(content)} bytes, expected at least 8")
    length = struct.unpack("<Q", content[:8])[0]
    if 8 + length > len(content):
        raise ValueError(f"{path}: header of {length} bytes ends after the file ({len(content)} bytes)")
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        if end > len(data) or end - begin != count * dtype.itemsize:
            raise ValueError(f"{path}: tensor {name} of shape {entry['shape']} has offsets [{begin}, {end}]")
        tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"]).copy()
    return tensors
