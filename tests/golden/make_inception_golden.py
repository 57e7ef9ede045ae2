"""Rewrites inception/golden.safetensors: what Inception-v3 in its FID variant makes of two images, layer by layer.

usage: make_inception_golden.py        needs torch >= 1.12 and numpy; prints the size of every layer's values

An independent definition in torch operators alone. Weights and images are 95 MB of pseudo-random numbers that both sides
compute from a formula (`uniform` below), so that only results are stored. Computed in fp64, but for the resize, which is
that of torch in fp32, as users of pytorch-fid get it.

For every convolution (after batch norm and ReLU), pool and block, by its name: `<name>` up to 64 values of y [N, H, W, C],
every k-th (k odd, so that the channels vary), and `<name>.stats` [2] the mean and standard deviation. `features` [2, 2048], `spatial` [2, 2023], `logits`
[2, 1008], and `input` the resized images, sampled like a layer.
"""
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import safetensors

COUNT, HEIGHT, WIDTH = 2, 48, 64
SAMPLES = 64


def fnv1a(text):
    """FNV-1a, 64 bits."""
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 % 2**64
    return value


def words(name, count):
    """Word i of a sequence: murmur3's 32-bit finaliser of i * 2654435761 plus the name's hash."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(fnv1a(name) % 2**32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85ebca6b)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xc2b2ae35)
    x ^= x >> np.uint32(16)
    return x


def uniform(name, shape, low, high):
    """fp32: low + (high - low) u, u in [0, 1) from the word's upper 24 bits."""
    u = (words(name, int(np.prod(shape))) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy((np.float32(low) + (np.float32(high) - np.float32(low)) * u).reshape(shape)).double()


class Network:
    """Runs the network; `seen` gets every result by name, channels last."""

    def __init__(self):
        self.seen = {}

    def note(self, name, y):
        self.seen[name] = y.permute(0, 2, 3, 1).contiguous().numpy()
        return y

    def conv(self, name, x, out, kernel, stride=1, padding=0):
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        shape = (out, x.shape[1], *kernel)
        half = float(np.sqrt(6 / np.prod(shape[1:])))  # He: variance 2 / fan_in
        y = F.conv2d(x, uniform(name + ".conv.weight", shape, -half, half), stride=stride, padding=padding)
        y = F.batch_norm(y, uniform(name + ".bn.running_mean", (out,), -0.25, 0.25),
                         uniform(name + ".bn.running_var", (out,), 0.5, 1.5), uniform(name + ".bn.weight", (out,), 0.5, 1.5),
                         uniform(name + ".bn.bias", (out,), -0.25, 0.25), eps=1e-3)
        return self.note(name, F.relu(y))

    def shrink(self, name, x):
        return self.note(name, F.max_pool2d(x, 3, 2))

    def pooled(self, block, x, out, largest=False):
        y = F.max_pool2d(x, 3, 1, 1) if largest else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.conv(block + ".branch_pool", self.note(block + ".pool", y), out, 1)

    def chain(self, x, *layers):
        for layer in layers:
            x = self.conv(layer[0], x, *layer[1:])
        return x

    def mixed_a(self, b, x, pool):
        return self.note(b, torch.cat([
            self.conv(b + ".branch1x1", x, 64, 1),
            self.chain(x, (b + ".branch5x5_1", 48, 1), (b + ".branch5x5_2", 64, 5, 1, 2)),
            self.chain(x, (b + ".branch3x3dbl_1", 64, 1), (b + ".branch3x3dbl_2", 96, 3, 1, 1),
                       (b + ".branch3x3dbl_3", 96, 3, 1, 1)),
            self.pooled(b, x, pool)], 1))

    def mixed_b(self, b, x):
        return self.note(b, torch.cat([
            self.conv(b + ".branch3x3", x, 384, 3, 2),
            self.chain(x, (b + ".branch3x3dbl_1", 64, 1), (b + ".branch3x3dbl_2", 96, 3, 1, 1),
                       (b + ".branch3x3dbl_3", 96, 3, 2)),
            self.shrink(b + ".pool", x)], 1))

    def mixed_c(self, b, x, c7):
        row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        return self.note(b, torch.cat([
            self.conv(b + ".branch1x1", x, 192, 1),
            self.chain(x, (b + ".branch7x7_1", c7, 1), (b + ".branch7x7_2", c7, *row), (b + ".branch7x7_3", 192, *column)),
            self.chain(x, (b + ".branch7x7dbl_1", c7, 1), (b + ".branch7x7dbl_2", c7, *column),
                       (b + ".branch7x7dbl_3", c7, *row), (b + ".branch7x7dbl_4", c7, *column),
                       (b + ".branch7x7dbl_5", 192, *row)),
            self.pooled(b, x, 192)], 1))

    def mixed_d(self, b, x):
        return self.note(b, torch.cat([
            self.chain(x, (b + ".branch3x3_1", 192, 1), (b + ".branch3x3_2", 320, 3, 2)),
            self.chain(x, (b + ".branch7x7x3_1", 192, 1), (b + ".branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
                       (b + ".branch7x7x3_3", 192, (7, 1), 1, (3, 0)), (b + ".branch7x7x3_4", 192, 3, 2)),
            self.shrink(b + ".pool", x)], 1))

    def mixed_e(self, b, x, largest):
        row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        single = self.conv(b + ".branch3x3_1", x, 384, 1)
        double = self.chain(x, (b + ".branch3x3dbl_1", 448, 1), (b + ".branch3x3dbl_2", 384, 3, 1, 1))
        return self.note(b, torch.cat([
            self.conv(b + ".branch1x1", x, 320, 1),
            self.conv(b + ".branch3x3_2a", single, 384, *row), self.conv(b + ".branch3x3_2b", single, 384, *column),
            self.conv(b + ".branch3x3dbl_3a", double, 384, *row), self.conv(b + ".branch3x3dbl_3b", double, 384, *column),
            self.pooled(b, x, 192, largest)], 1))

    def __call__(self, x):
        x = self.chain(x, ("Conv2d_1a_3x3", 32, 3, 2), ("Conv2d_2a_3x3", 32, 3), ("Conv2d_2b_3x3", 64, 3, 1, 1))
        x = self.shrink("maxpool1", x)
        x = self.chain(x, ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3))
        x = self.shrink("maxpool2", x)
        for block, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = self.mixed_a("Mixed_" + block, x, pool)
        x = self.mixed_b("Mixed_6a", x)
        for block, c7 in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = self.mixed_c("Mixed_" + block, x, c7)
        x = self.mixed_d("Mixed_7a", x)
        x = self.mixed_e("Mixed_7b", x, largest=False)
        x = self.mixed_e("Mixed_7c", x, largest=True)
        features = x.mean((2, 3))
        half = float(np.sqrt(6 / 2048))
        logits = features @ uniform("fc.weight", (1008, 2048), -half, half).T
        return features.numpy(), logits.numpy()


def pixels():
    """uint8 NHWC: a ramp with noise, different in every channel."""
    noise = (words("pixels", COUNT * HEIGHT * WIDTH * 3) >> np.uint32(25)).reshape(COUNT, HEIGHT, WIDTH, 3)
    n, row, column, channel = np.meshgrid(*map(np.arange, noise.shape), indexing="ij")
    return ((noise + row * 2 + column * (channel + 1) // 2 + n * 16) % 256).astype(np.uint8)


def main():
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255
    x = 2 * F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False) - 1
    network = Network()
    network.note("input", x)
    with torch.no_grad():
        features, logits = network(x.double())
    tensors = {"features": features.astype(np.float32), "logits": logits.astype(np.float32),
               "spatial": network.seen["Mixed_6d.branch1x1"][..., :7].reshape(COUNT, -1).astype(np.float32)}
    for name, y in network.seen.items():
        flat = y.astype(np.float64).ravel()
        step = flat.size // SAMPLES
        tensors[name] = flat[::step - (step % 2 == 0)][:SAMPLES].astype(np.float32)
        tensors[name + ".stats"] = np.array([flat.mean(), flat.std()], np.float32)
        print(f"{name:28} {y.shape} mean {flat.mean():8.4f} deviation {flat.std():8.4f} largest {np.abs(flat).max():8.3f}")
    folder = pathlib.Path(__file__).resolve().parent / "inception"
    folder.mkdir(exist_ok=True)
    safetensors.write(folder / "golden.safetensors", tensors)


main()
