#!/usr/bin/env python3
"""Checks who includes whom: the rules of the house as a table, over every C++ and CUDA file of the repository.

usage: launch/check_house.py [ROOT]       exit code 1 and one line a violation
       launch/check_house.py --selftest   plants violations in a copy of the layout and expects each to be found
"""
import pathlib
import re
import sys
import tempfile

# Folder -> folders it may include besides itself, the longest matching prefix counts. base is everyone's.
ALLOWED = {
    "core/base": [],
    "core/tensor": [],
    "core/cuda": ["core/tensor"],
    "core/autograd": ["core/tensor"],
    "core/ops": ["core/autograd", "core/tensor", "core/cuda"],
    "core/nn": ["core/ops", "core/autograd", "core/tensor"],
    "model": ["core"],
    "parallel": ["core/tensor"],  # the mesh
    "parallel/comm": ["core/tensor"],
    "parallel/tensor": ["parallel/comm", "parallel/mesh.h", "core"],
    "parallel/data": ["parallel/comm", "parallel/mesh.h", "core"],
    "parallel/pipeline": ["parallel/comm", "parallel/mesh.h", "core"],
    "data": ["core/tensor"],
    "trainer": ["model", "parallel", "data", "core"],
    "launch": ["trainer", "model", "parallel", "data", "core", "configs"],
    "tests": ["launch", "trainer", "model", "parallel", "data", "core", "configs"],
}
# The mesh's own files lie in parallel/ itself and may use the communicators.
EXTRA = {"parallel/mesh.h": ["parallel/comm"], "parallel/mesh.cc": ["parallel/comm"],
         "model/dit_plan.cc": ["parallel/tensor/plan.h"],
         "core/autograd/tape.cc": ["core/cuda/nvtx.h"]}

PROTO_HEADER = re.compile(r"\.pb\.h$|^google/protobuf/")
PROTO_FOLDERS = ("trainer/run_config/", "trainer/checkpoint/", "trainer/metrics/", "launch/", "tests/trainer/")

CUDA_HEADER = re.compile(r"^(cuda|cublas|cublasLt|nccl|curand|cooperative_groups|nvtx3|cub/|cuda/)")
CUDA_PLACES = re.compile(r"\.cuh?$|^core/cuda/|^tests/")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
ROOMS = ("core", "model", "parallel", "data", "trainer", "launch", "configs", "tests")


def room_of(path):
    """The longest folder of the table that holds `path`, or None."""
    parts = path.split("/")
    for length in range(len(parts) - 1, 0, -1):
        prefix = "/".join(parts[:length])
        if prefix in ALLOWED:
            return prefix
    return None


def inside(path, folders):
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def violation(path, include):
    """Why `path` must not include `include`, or None."""
    if PROTO_HEADER.search(include) and not path.startswith(PROTO_FOLDERS):
        return "protocol buffer headers belong to trainer/{run_config,checkpoint,metrics} and launch"
    if CUDA_HEADER.match(include) and not CUDA_PLACES.search(path):
        return "CUDA headers belong to *.cu and core/cuda"
    if include.startswith(".") or "/../" in include:
        return "includes are written from the root"
    if include.split("/")[0] not in ROOMS or "/" not in include or include.endswith(".pb.h"):
        return None
    room = room_of(path)
    if room is None:
        return "a folder that the table in launch/check_house.py does not know"
    allowed = [room, "core/base"] + ALLOWED[room] + EXTRA.get(path, [])
    if path.endswith(".cu"):
        allowed.append("core/cuda")
    if room.startswith("parallel/") or room == "parallel":
        allowed = [a for a in allowed if a != "parallel"] + (["parallel/mesh.h"] if room == "parallel" else [])
    if inside(include, allowed):
        return None
    return f"{room} may include only {', '.join(sorted(allowed))}"


def check(root):
    """All violations below `root`, as lines."""
    lines = []
    for room in ROOMS:
        for file in sorted((root / room).rglob("*")):
            if file.suffix not in SUFFIXES:
                continue
            path = file.relative_to(root).as_posix()
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.suffix == ".h" and not path.endswith("-inl.h") and "#pragma once" not in text:
                lines.append(f"{path}:1: a header without #pragma once")
            for number, line in enumerate(text.splitlines(), 1):
                match = INCLUDE.match(line)
                reason = violation(path, match.group(1)) if match else None
                if reason:
                    lines.append(f"{path}:{number}: includes {match.group(1)}: {reason}")
    return lines


GOOD = {
    "core/ops/linear.cc": '#include "core/autograd/tape.h"\n',
    "core/cuda/gemm.cc": "#include <cublasLt.h>\n",
    "core/ops/linear.cu": "#include <cuda_runtime.h>\n",
    "model/dit_plan.cc": '#include "parallel/tensor/plan.h"\n',
    "parallel/mesh.cc": '#include "parallel/comm/communicator.h"\n#include "parallel/mesh.h"\n',
    "parallel/data/reducer.cc": '#include "core/nn/parameter.h"\n',
    "trainer/run_config/run_config.cc": '#include "configs/run_config.pb.h"\n#include "model/dit.h"\n',
    "launch/main.cc": '#include "launch/command_line.h"\n',
}
BAD = {
    "core/base/check.cc": '#include "core/tensor/tensor.h"\n',
    "core/tensor/tensor.cc": '#include "core/autograd/tape.h"\n',
    "core/nn/linear.cc": '#include "model/dit.h"\n',
    "core/ops/linear.cc": '#include "parallel/comm/world.h"\n',
    "core/ops/gemm.cc": "#include <cuda_runtime.h>\n",
    "model/dit.cc": '#include "parallel/tensor/plan.h"\n',
    "model/dit_plan.cc": '#include "parallel/comm/world.h"\n',
    "parallel/comm/world.cc": '#include "core/autograd/tape.h"\n',
    "parallel/data/reducer.cc": '#include "parallel/pipeline/stage.h"\n',
    "data/loader.cc": '#include "model/dit.h"\n',
    "trainer/train/train.cc": '#include "configs/run_config.pb.h"\n',
    "trainer/train/loop.cc": '#include "launch/command_line.h"\n',
    "trainer/train/step.cc": '#include "../sample.h"\n',
    "data/header.h": "int x;\n",
}


def write_files(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def selftest():
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder), GOOD)
        found = check(pathlib.Path(folder))
        assert not found, f"false alarms: {found}"
    for path, text in BAD.items():
        with tempfile.TemporaryDirectory() as folder:
            write_files(pathlib.Path(folder), {path: text})
            found = check(pathlib.Path(folder))
            assert len(found) == 1 and found[0].startswith(path + ":1: "), f"missed {path}: {text.strip()} ({found})"
    print(f"selftest: {len(BAD)} planted violations found, {len(GOOD)} good files passed")


def main():
    if sys.argv[1:] == ["--selftest"]:
        selftest()
        return 0
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent)
    lines = check(root)
    print("\n".join(lines) if lines else "house rules hold")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
