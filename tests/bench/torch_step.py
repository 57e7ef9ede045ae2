#!/usr/bin/env python3
"""Times one DiT training step of PyTorch, configured as well as the installed version allows; prints JSON.

A step is what ours does: noise, timesteps and label drop are drawn, forward, mse + vb, backward, AdamW, EMA. Latents
and labels are resident. The model is adaLN-Zero. Where present it uses scaled_dot_product_attention, fused AdamW
(else foreach) and foreach EMA; patch embedding is a matrix product. vb is computed in fp32, cheaper and less exact than
ours. `--compile` compiles forward with loss (torch 2); max-autotune brings CUDA graphs with it.

On a GPU (--device cuda), --precision autocast keeps fp32 weights and moments, as ours does; pure holds everything but the
loss in bf16, moments and EMA too: less work than ours, and no training that anybody should do. The attention backend is
the fastest of those that run, timed on the model's shape before. The host waits for the device only at the end of every
--window steps; ours does at the end of every step.

On a CPU set OMP_WAIT_POLICY=passive in the environment: spinning threads are slower on a shared machine.
"""
import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

# name -> (depth, width, heads, patch, default batch)
SIZES = {"S/2": (12, 384, 6, 2, 4), "S/8": (12, 384, 6, 8, 32), "w192": (6, 192, 3, 2, 8), "B/2": (12, 768, 12, 2, 4),
         "L/2": (24, 1024, 16, 2, 4), "XL/2": (28, 1152, 16, 2, 4)}
CHANNELS, SIDE, CLASSES, STEPS, DROP, EMA_DECAY = 4, 32, 1000, 1000, 0.1, 0.9999
HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if HAS_SDPA:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


def modulate(x, shift, scale):
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn, self.modulation = Attention(width, heads), nn.Linear(width, 6 * width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, c):
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation(c).chunk(6, dim=1)
        x = torch.addcmul(x, gate_msa[:, None], self.attn(modulate(self.norm(x), shift_msa, scale_msa)))
        hidden = F.gelu(self.fc1(modulate(self.norm(x), shift_mlp, scale_mlp)), approximate="tanh")
        return torch.addcmul(x, gate_mlp[:, None], self.fc2(hidden))


class DiT(nn.Module):
    def __init__(self, depth, width, heads, patch):
        super().__init__()
        self.patch, self.grid = patch, SIDE // patch
        self.embed = nn.Linear(CHANNELS * patch * patch, width)
        self.register_buffer("position", 0.1 * torch.randn(1, self.grid ** 2, width))
        self.register_buffer("frequency", torch.exp(-math.log(10000) / 128 * torch.arange(128)))
        self.time1, self.time2 = nn.Linear(256, width), nn.Linear(width, width)
        self.label = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation, self.head = nn.Linear(width, 2 * width), nn.Linear(width, patch * patch * 2 * CHANNELS)

    def forward(self, x, t, y):
        batch, grid, patch = x.shape[0], self.grid, self.patch
        patches = x.reshape(batch, CHANNELS, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        dtype = self.embed.weight.dtype
        x = self.embed(patches.reshape(batch, grid * grid, -1).to(dtype)) + self.position
        angle = t[:, None].float() * self.frequency.float()
        c = self.time2(F.silu(self.time1(torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)))) + self.label(y)
        c = F.silu(c)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        x = self.head(modulate(self.norm(x), shift, scale))
        return x.reshape(batch, grid, grid, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, SIDE, SIDE)


class Loss(nn.Module):
    """mse + vb of the linear schedule, in fp32; the per-step coefficients are columns of one table."""

    def __init__(self, model, autocast=False):
        super().__init__()
        self.model, self.autocast = model, autocast
        beta = np.linspace(1e-4, 0.02, STEPS)
        bar = np.cumprod(1 - beta)
        previous = np.append(1.0, bar[:-1])
        posterior = beta * (1 - previous) / (1 - bar)
        columns = [np.sqrt(bar), np.sqrt(1 - bar), np.sqrt(1 / bar), np.sqrt(1 / bar - 1), np.log(beta),
                   np.log(np.append(posterior[1], posterior[1:])), beta * np.sqrt(previous) / (1 - bar),
                   (1 - previous) * np.sqrt(1 - beta) / (1 - bar)]
        self.register_buffer("table", torch.tensor(np.stack(columns, axis=1), dtype=torch.float32))

    def forward(self, x0, noise, t, y):
        a, s, inverse, inverse_s, high, low, from_x0, from_xt = self.table[t].t()[..., None, None, None].unbind(0)
        x_t = a * x0 + s * noise
        if self.autocast:
            with torch.autocast(x_t.device.type, dtype=torch.bfloat16):
                output = self.model(x_t, t, y)
        else:
            output = self.model(x_t, t, y)
        epsilon, v = output.float().chunk(2, dim=1)
        fraction = (v + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        predicted = from_x0 * (inverse * x_t - inverse_s * epsilon.detach()) + from_xt * x_t
        mean = from_x0 * x0 + from_xt * x_t
        kl = 0.5 * (log_variance - low - 1 + (low - log_variance).exp()
                    + (mean - predicted) ** 2 * (-log_variance).exp())
        vb = torch.where((t == 0)[:, None, None, None], self.discretised_nll(x0, predicted, log_variance), kl)
        return F.mse_loss(epsilon, noise) + vb.mean() / math.log(2)

    @staticmethod
    def discretised_nll(x, mean, log_variance):
        inverse_std = (-0.5 * log_variance).exp()
        cdf = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z ** 3)))
        upper, lower = cdf(inverse_std * (x - mean + 1 / 255)), cdf(inverse_std * (x - mean - 1 / 255))
        p = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
        return -p.clamp(min=1e-12).log()


def make_optimizer(parameters, kind):
    """AdamW of the fastest kind that this version offers, or the kind asked for."""
    for name in ("fused", "foreach", "single") if kind == "auto" else (kind,):
        try:
            options = {} if name == "single" else {name: True}
            return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, **options), name
        except (TypeError, RuntimeError):
            continue
    raise SystemExit(f"this torch has no {kind} AdamW here")


def make_ema(parameters):
    """EMA tensors and a function that advances them, one foreach pass where torch has a foreach lerp."""
    ema = [p.detach().clone() for p in parameters]
    values = [p.detach() for p in parameters]

    def update():
        if hasattr(torch, "_foreach_lerp_"):
            torch._foreach_lerp_(ema, values, 1 - EMA_DECAY)
        else:
            torch._foreach_mul_(ema, EMA_DECAY)
            torch._foreach_add_(ema, values, alpha=1 - EMA_DECAY)
    return update


def fastest_attention(device, dtype, batch, tokens, width, heads):
    """The backend of scaled_dot_product_attention that is fastest, forward and backward, at this shape; None: torch's own
    choice, where it cannot be told."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        return None
    times = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        q, k, v = (torch.randn(batch, heads, tokens, width // heads, device=device, dtype=dtype, requires_grad=True)
                   for _ in range(3))
        try:
            with sdpa_kernel([backend]):
                for i in range(13):
                    if i == 3:
                        torch.cuda.synchronize()
                        start = time.perf_counter()
                    F.scaled_dot_product_attention(q, k, v).sum().backward()
                torch.cuda.synchronize()
            times[backend] = time.perf_counter() - start
        except RuntimeError:
            continue  # not for this shape, type or device
    return min(times, key=times.get, default=None)


def attention_context(backend):
    if backend is None:
        return contextlib.nullcontext()
    from torch.nn.attention import sdpa_kernel
    return sdpa_kernel([backend])


def prepare(options, batch):
    """A function that does one step and returns its loss as a tensor, and what it was made of."""
    depth, width, heads, patch, _ = SIZES[options.size]
    device, cuda = torch.device(options.device), options.device == "cuda"
    loss_of = Loss(DiT(depth, width, heads, patch), autocast=options.precision == "autocast").to(device)
    if options.precision == "pure":
        loss_of.model.to(torch.bfloat16)
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    backend = None
    if cuda:
        dtype = torch.bfloat16 if options.precision in ("autocast", "pure") else torch.float32
        backend = fastest_attention(device, dtype, batch, (SIDE // patch) ** 2, width, heads)
    parameters = list(loss_of.parameters())
    optimizer, optimizer_kind = make_optimizer(parameters, options.optimizer)
    update_ema = make_ema(parameters)
    mode = None if options.compile == "default" else options.compile
    run = torch.compile(loss_of, mode=mode) if options.compile else loss_of
    x0 = torch.randn(batch, CHANNELS, SIDE, SIDE, device=device)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def step():
        t, noise = torch.randint(0, STEPS, (batch,), device=device), torch.randn_like(x0)
        y = torch.where(torch.rand(batch, device=device) < DROP, torch.full_like(labels, CLASSES), labels)
        optimizer.zero_grad(set_to_none=True)
        with attention_context(backend):
            loss = run(x0, noise, t, y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            update_ema()
        return loss.detach()

    made_of = {"optimizer": optimizer_kind, "sdpa": str(backend.name if backend else HAS_SDPA),
               "parameters": sum(p.numel() for p in parameters) + loss_of.model.position.numel()}
    return step, made_of


def measure(options):
    batch = options.batch or SIZES[options.size][-1]
    cuda = options.device == "cuda"
    window = options.window or (5 if cuda else 1)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    step, made_of = prepare(options, batch)

    def steps(count):
        for _ in range(count):
            loss = step()
        return float(loss)  # waits for the device

    start = time.perf_counter()
    steps(options.warmup or (10 if cuda else 4))
    warmup_s, times = time.perf_counter() - start, []
    for _ in range(options.steps):
        start = time.perf_counter()
        loss = steps(window)
        times.append(1e3 * (time.perf_counter() - start) / window)
    median = statistics.median(times)
    return {"bench": "torch_step", "device": torch.cuda.get_device_name() if cuda else "cpu",
            "precision": options.precision, "size": options.size, "batch": batch, "threads": options.threads,
            "compile": options.compile or "none", **made_of,
            "median_ms": round(median, 3), "min_ms": round(min(times), 3), "max_ms": round(max(times), 3),
            "images_per_s": round(1e3 * batch / median, 2),
            "steps": options.steps * window, "window": window, "warmup_s": round(warmup_s, 2), "last_loss": loss,
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "torch": torch.__version__, "machine": platform.machine(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="w192")
    parser.add_argument("--batch", type=int, default=0, help="default: S/8 32, w192 8, others 4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "autocast", "pure"), default="fp32")
    parser.add_argument("--steps", type=int, default=20, help="timings")
    parser.add_argument("--window", type=int, default=0, help="steps a timing; default: 1 on a CPU, 5 on a GPU")
    parser.add_argument("--warmup", type=int, default=0, help="steps before; default: 4 on a CPU, 10 on a GPU")
    parser.add_argument("--compile", nargs="?", const="default", help="torch.compile, optionally with a mode")
    parser.add_argument("--optimizer", choices=("auto", "fused", "foreach", "single"), default="auto")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
