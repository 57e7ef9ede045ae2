#!/usr/bin/env python3
"""Writes image_ops.npz: what PyTorch (and TensorFlow 1, by its formula) make of small images and logits.

Read by tests/core/ops/{pool,resize,cross_entropy}_test.cc. Arrays are named <case>.<what>; images are [N, H, W, C].
The inputs of resizing are not stored, they are pixels() here and in the test; of its outputs only the rows and columns
in `<case>.rows` and `<case>.columns` are. Rewriting with the same torch changes no byte. It must be PyTorch 2 or newer:
1.13 rounds the places of pixels otherwise, which moves resized values by up to 3e-5.
"""
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

RESIZES = [(32, 32, 299, 299), (299, 299, 299, 299), (64, 64, 299, 299), (299, 299, 32, 32), (400, 300, 299, 299)]
# kernel_h, kernel_w, stride, pad_h, pad_w
WINDOWS = [(3, 3, 2, 0, 0), (3, 3, 1, 1, 1), (2, 3, 2, 1, 1), (2, 2, 3, 0, 0)]


def pixels(height, width, channels=2):
    h, w, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((h * h * 7 + h * w * 3 + w * 11 + c * 53) % 256).astype(np.float32)


def resize_tf1(x, height, width):
    """tensorflow/core/kernels/resize_bilinear_op.cc with the LegacyScaler, in its types and its order."""
    def taps(size, out):
        at = np.arange(out, dtype=np.float32) * (np.float32(size) / np.float32(out))
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (at - low.astype(np.float32)).astype(np.float32)
    top, bottom, y_lerp = taps(x.shape[0], height)
    left, right, x_lerp = taps(x.shape[1], width)
    x_lerp, y_lerp = x_lerp[None, :, None], y_lerp[:, None, None]
    above = x[top][:, left] + (x[top][:, right] - x[top][:, left]) * x_lerp
    below = x[bottom][:, left] + (x[bottom][:, right] - x[bottom][:, left]) * x_lerp
    return above + (below - above) * y_lerp


def resize_torch(x, height, width):
    nchw = torch.from_numpy(x).permute(2, 0, 1)[None]
    y = F.interpolate(nchw, size=(height, width), mode="bilinear", align_corners=False)
    return y[0].permute(1, 2, 0).numpy()


def resize_cases():
    out = {}
    for h, w, height, width in RESIZES:
        rows = np.unique([*range(0, height, 13), height - 2, height - 1]).astype(np.int32)
        columns = np.unique([*range(0, width, 7), width - 2, width - 1]).astype(np.int32)
        x = pixels(h, w)
        torch_y = np.float32(2) * resize_torch(x / np.float32(255), height, width) - np.float32(1)
        tf1_y = (resize_tf1(x, height, width) - np.float32(128)) / np.float32(128)
        name = f"resize_{h}x{w}_{height}x{width}"
        out.update({f"{name}.rows": rows, f"{name}.columns": columns, f"{name}.torch": torch_y[rows][:, columns],
                    f"{name}.tf1": tf1_y[rows][:, columns]})
    return out


def pool_cases():
    """Few different values, so that windows have several maxima; sums of gradients are exact."""
    random = np.random.default_rng(1)
    x = random.integers(-2, 3, (2, 7, 9, 5)).astype(np.float32)
    out = {"pool.x": x}
    kinds = {
        "max": lambda t, k, s, p: F.max_pool2d(t, k, s, p),
        "average": lambda t, k, s, p: F.avg_pool2d(t, k, s, p, count_include_pad=True),
        "average_inside": lambda t, k, s, p: F.avg_pool2d(t, k, s, p, count_include_pad=False),
    }
    for i, (kernel_h, kernel_w, stride, pad_h, pad_w) in enumerate(WINDOWS):
        out[f"pool_{i}.window"] = np.array([kernel_h, kernel_w, stride, pad_h, pad_w], np.int32)
        for kind, pool in kinds.items():
            t = torch.from_numpy(x).double().permute(0, 3, 1, 2).requires_grad_()
            y = pool(t, (kernel_h, kernel_w), stride, (pad_h, pad_w))
            dy = torch.from_numpy(random.integers(-8, 9, y.shape).astype(np.float64))
            y.backward(dy)
            for what, value in (("y", y), ("dy", dy), ("dx", t.grad)):
                out[f"pool_{i}.{kind}.{what}"] = value.detach().permute(0, 2, 3, 1).numpy().astype(np.float32)
    return out


def cross_entropy_cases():
    random = np.random.default_rng(2)
    logits = (random.normal(size=(7, 11)) * np.array([0, 1, 3, 10, 100, 1e4, 1e30])[:, None]).astype(np.float32)
    labels = np.array([0, 10, 3, 5, 7, 1, 2], np.int32)
    logits[3, labels[3]] = logits[3].max() + 12  # a sure answer that is right: its gradient is small
    dlosses = random.normal(size=7).astype(np.float32)
    t = torch.from_numpy(logits).double().requires_grad_()
    losses = F.cross_entropy(t, torch.from_numpy(labels).long(), reduction="none")
    losses.backward(torch.from_numpy(dlosses).double())
    return {"cross_entropy.logits": logits, "cross_entropy.labels": labels, "cross_entropy.dlosses": dlosses,
            "cross_entropy.losses": losses.detach().numpy().astype(np.float32),
            "cross_entropy.dlogits": t.grad.numpy().astype(np.float32)}


def main():
    path = pathlib.Path(__file__).resolve().parent / "image_ops.npz"
    np.savez_compressed(path, **resize_cases(), **pool_cases(), **cross_entropy_cases())
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
