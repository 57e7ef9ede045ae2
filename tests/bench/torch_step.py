#!/usr/bin/env python3
"""Times one DiT training step of PyTorch on CPU, configured as well as the installed version allows; prints JSON.

A step is what ours does: noise, timesteps and label drop are drawn, forward, mse + vb, backward, AdamW, EMA. Latents
and labels are resident. The model is adaLN-Zero in fp32. Where present it uses scaled_dot_product_attention, fused AdamW
(else foreach) and foreach EMA; patch embedding is a matrix product. vb is computed in fp32, cheaper and less exact than
ours. `--compile` compiles forward with loss (torch 2).

Set OMP_WAIT_POLICY=passive in the environment: spinning threads are slower on a shared machine.
"""
import argparse
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
SIZES = {"S/2": (12, 384, 6, 2, 4), "S/8": (12, 384, 6, 8, 32), "w192": (6, 192, 3, 2, 8)}
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
        x = self.embed(patches.reshape(batch, grid * grid, -1)) + self.position
        angle = t[:, None].float() * self.frequency
        c = self.time2(F.silu(self.time1(torch.cat([angle.cos(), angle.sin()], dim=1)))) + self.label(y)
        c = F.silu(c)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        x = self.head(modulate(self.norm(x), shift, scale))
        return x.reshape(batch, grid, grid, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, SIDE, SIDE)


class Loss(nn.Module):
    """mse + vb of the linear schedule; the per-step coefficients are columns of one table."""

    def __init__(self, model):
        super().__init__()
        self.model = model
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
        epsilon, v = self.model(x_t, t, y).chunk(2, dim=1)
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
    raise SystemExit(f"this torch has no {kind} AdamW on CPU")


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


def measure(options):
    depth, width, heads, patch, default_batch = SIZES[options.size]
    batch = options.batch or default_batch
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    loss_of = Loss(DiT(depth, width, heads, patch))
    parameters = list(loss_of.parameters())
    optimizer, optimizer_kind = make_optimizer(parameters, options.optimizer)
    update_ema = make_ema(parameters)
    mode = None if options.compile == "default" else options.compile
    run = torch.compile(loss_of, mode=mode) if options.compile else loss_of
    x0, labels = torch.randn(batch, CHANNELS, SIDE, SIDE), torch.randint(0, CLASSES, (batch,))

    def step():
        t, noise = torch.randint(0, STEPS, (batch,)), torch.randn_like(x0)
        y = torch.where(torch.rand(batch) < DROP, torch.full_like(labels, CLASSES), labels)
        optimizer.zero_grad(set_to_none=True)
        loss = run(x0, noise, t, y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            update_ema()
        return float(loss.detach())

    start = time.perf_counter()
    for _ in range(options.warmup):
        step()
    warmup_s, times = time.perf_counter() - start, []
    for _ in range(options.steps):
        start = time.perf_counter()
        loss = step()
        times.append(1e3 * (time.perf_counter() - start))
    median = statistics.median(times)
    return {"bench": "torch_step", "size": options.size, "batch": batch, "threads": options.threads,
            "compile": options.compile or "none", "optimizer": optimizer_kind, "sdpa": HAS_SDPA,
            "median_ms": round(median, 2), "min_ms": round(min(times), 2),
            "images_per_s": round(1e3 * batch / median, 2),
            "steps": options.steps, "warmup_s": round(warmup_s, 2), "last_loss": loss,
            "parameters": sum(p.numel() for p in parameters) + loss_of.model.position.numel(),
            "torch": torch.__version__, "machine": platform.machine(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="w192")
    parser.add_argument("--batch", type=int, default=0, help="default: S/2 4, S/8 32, w192 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--compile", nargs="?", const="default", help="torch.compile, optionally with a mode")
    parser.add_argument("--optimizer", choices=("auto", "fused", "foreach", "single"), default="auto")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
