#!/usr/bin/env python3
"""Reference Diffusion Transformer in PyTorch (arXiv 2212.09748), the oracle of the golden tests.

Everything is a function of a `Spec`, a {name: tensor} dictionary of parameters and explicit inputs; only
`random_weights` and `random_inputs` draw numbers, from the generator they are given. The model runs in the dtype of its
parameters; diffusion tables, x_t, the timestep features and all loss arithmetic are fp64. Needs numpy, torch >= 1.12.

  oracle.py selftest       checks known facts of the paper, exits 1 on failure
  oracle.py parity [--dtype fp32|fp64] --config F --weights W --inputs I --outputs O       as `shardit parity` does

Choices the paper leaves open: the conditioning tokens of the cross-attention and in-context designs enter raw in the
order (t, y); keys' rows precede values' rows in `cross_attn.kv`; a model without learned sigma has loss = mse and
vb = 0, and samples with the large fixed variance, beta_t (index 0 takes the posterior variance of index 1).
"""
import argparse
import math
import re
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import safetensors

# Shape legend: N batch, T tokens, D width, H heads, K head dim, C channels, S side, P patch.
DESIGNS = ("ADALN_ZERO", "ADALN", "CROSS_ATTENTION", "IN_CONTEXT")
MODULATIONS = {"ADALN_ZERO": 6, "ADALN": 4, "CROSS_ATTENTION": 0, "IN_CONTEXT": 0}
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
FREQUENCIES = 128


@dataclass(frozen=True)
class Spec:
    conditioning: str = "ADALN_ZERO"
    depth: int = 2
    width: int = 16
    heads: int = 2
    patch: int = 2
    channels: int = 4
    side: int = 8
    classes: int = 10
    learn_sigma: bool = True
    schedule: str = "LINEAR"  # or COSINE
    prediction: str = "EPSILON"  # or X0, V
    steps: int = 1000

    @property
    def tokens(self):
        return (self.side // self.patch) ** 2

    @property
    def out_channels(self):
        return self.channels * (2 if self.learn_sigma else 1)

    def textproto(self):
        return (f"model {{\n  depth: {self.depth} width: {self.width} heads: {self.heads} patch: {self.patch}\n"
                f"  conditioning: {self.conditioning} channels: {self.channels} side: {self.side} "
                f"classes: {self.classes} learn_sigma: {str(self.learn_sigma).lower()}\n}}\n"
                f"diffusion {{ steps: {self.steps} schedule: {self.schedule} prediction: {self.prediction} }}\n")

    @staticmethod
    def parse(text):
        """Reads the fields of the flat `model` and `diffusion` blocks, which have distinct names."""
        body = re.sub(r"#.*", "", text)
        blocks = dict(re.findall(r"(\w+)\s*\{([^{}]*)\}", body))
        body = blocks.get("model", "") + " " + blocks.get("diffusion", "")
        fields = dict(re.findall(r"(\w+)\s*:\s*\"?([\w./-]+)", body))
        values = {}
        for name, field in Spec.__dataclass_fields__.items():
            if name in fields:
                kind = type(field.default)
                values[name] = fields[name] == "true" if kind is bool else kind(fields[name])
        return Spec(**values)


def parameter_shapes(spec):
    """{name: shape} of every tensor of the model, pos_embed included."""
    width, patch, channels = spec.width, spec.patch, spec.channels
    shapes = {"pos_embed": (1, spec.tokens, width), "y_embedder.embedding_table.weight": (spec.classes + 1, width)}

    def linear(name, rows, columns):
        shapes[name + ".weight"], shapes[name + ".bias"] = (rows, columns), (rows,)

    def norm(name):
        shapes[name + ".weight"], shapes[name + ".bias"] = (width,), (width,)

    shapes["x_embedder.proj.weight"], shapes["x_embedder.proj.bias"] = (width, channels, patch, patch), (width,)
    linear("t_embedder.mlp.0", width, 2 * FREQUENCIES)
    linear("t_embedder.mlp.2", width, width)
    modulations = MODULATIONS[spec.conditioning]
    for i in range(spec.depth):
        block = f"blocks.{i}."
        linear(block + "attn.qkv", 3 * width, width)
        linear(block + "attn.proj", width, width)
        linear(block + "mlp.fc1", 4 * width, width)
        linear(block + "mlp.fc2", width, 4 * width)
        if modulations:
            linear(block + "adaLN_modulation.1", modulations * width, width)
        else:
            norm(block + "norm1")
            norm(block + "norm2")
        if spec.conditioning == "CROSS_ATTENTION":
            norm(block + "norm_cross")
            linear(block + "cross_attn.q", width, width)
            linear(block + "cross_attn.kv", 2 * width, width)
            linear(block + "cross_attn.proj", width, width)
    linear("final_layer.linear", patch * patch * spec.out_channels, width)
    if modulations:
        linear("final_layer.adaLN_modulation.1", 2 * width, width)
    else:
        norm("final_layer.norm_final")
    return shapes


def position_table(spec):
    """(1, T, D) fp64: first half [sin, cos] of the column, second half [sin, cos] of the row."""
    quarter, grid = spec.width // 4, spec.side // spec.patch
    omega = 10000.0 ** (-np.arange(quarter, dtype=np.float64) / quarter)
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    parts = [f(np.outer(index, omega)) for index in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1)[None]


def timestep_features(t):
    """(N, 256) fp64 of integer t: cosines, then sines. fp64 because t f in fp32 is off by 3e-5 at t near 1000."""
    frequency = torch.exp(-math.log(10000.0) / FREQUENCIES * torch.arange(FREQUENCIES, dtype=torch.float64))
    angle = t.to(torch.float64)[:, None] * frequency
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)


def _linear(p, name, x):
    return x @ p[name + ".weight"].t() + p[name + ".bias"]


def _normalise(x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6)


def _affine_norm(p, name, x):
    return _normalise(x) * p[name + ".weight"] + p[name + ".bias"]


def _modulated_norm(x_NTD, shift_ND, scale_ND):
    return _normalise(x_NTD) * (1 + scale_ND[:, None]) + shift_ND[:, None]


def _gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def _attention(q_NTD, k_NUD, v_NUD, heads):
    batch, tokens, width = q_NTD.shape
    q, k, v = (z.reshape(batch, z.shape[1], heads, width // heads).transpose(1, 2) for z in (q_NTD, k_NUD, v_NUD))
    weights = torch.softmax(q @ k.transpose(2, 3) * (width // heads) ** -0.5, dim=-1)
    return (weights @ v).transpose(1, 2).reshape(batch, tokens, width)


def _self_attention(p, name, x, heads):
    q, k, v = _linear(p, name + ".qkv", x).chunk(3, dim=-1)
    return _linear(p, name + ".proj", _attention(q, k, v, heads))


def _cross_attention(p, name, x, tokens, heads):
    k, v = _linear(p, name + ".kv", tokens).chunk(2, dim=-1)
    return _linear(p, name + ".proj", _attention(_linear(p, name + ".q", x), k, v, heads))


def _mlp(p, name, x):
    return _linear(p, name + ".fc2", _gelu(_linear(p, name + ".fc1", x)))


def _block(spec, p, i, x, t_ND, y_ND):
    name, heads = f"blocks.{i}.", spec.heads
    if spec.conditioning == "ADALN_ZERO":
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = \
            _linear(p, name + "adaLN_modulation.1", F.silu(t_ND + y_ND)).chunk(6, dim=1)
        x = x + gate_msa[:, None] * _self_attention(p, name + "attn", _modulated_norm(x, shift_msa, scale_msa), heads)
        return x + gate_mlp[:, None] * _mlp(p, name + "mlp", _modulated_norm(x, shift_mlp, scale_mlp))
    if spec.conditioning == "ADALN":
        shift_msa, scale_msa, shift_mlp, scale_mlp = \
            _linear(p, name + "adaLN_modulation.1", F.silu(t_ND + y_ND)).chunk(4, dim=1)
        x = x + _self_attention(p, name + "attn", _modulated_norm(x, shift_msa, scale_msa), heads)
        return x + _mlp(p, name + "mlp", _modulated_norm(x, shift_mlp, scale_mlp))
    x = x + _self_attention(p, name + "attn", _affine_norm(p, name + "norm1", x), heads)
    if spec.conditioning == "CROSS_ATTENTION":
        tokens = torch.stack([t_ND, y_ND], dim=1)
        x = x + _cross_attention(p, name + "cross_attn", _affine_norm(p, name + "norm_cross", x), tokens, heads)
    return x + _mlp(p, name + "mlp", _affine_norm(p, name + "norm2", x))


def forward(spec, p, x_NCSS, t, y, taps=None):
    """Model output (N, C or 2C, S, S). `taps`, a dictionary, receives intermediate activations when given."""
    batch, patch, grid = x_NCSS.shape[0], spec.patch, spec.side // spec.patch
    patches = x_NCSS.reshape(batch, spec.channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    x = patches.reshape(batch, grid * grid, -1) @ p["x_embedder.proj.weight"].reshape(spec.width, -1).t()
    x = x + p["x_embedder.proj.bias"] + p["pos_embed"]
    features = timestep_features(t).to(x.dtype)
    t_ND = _linear(p, "t_embedder.mlp.2", F.silu(_linear(p, "t_embedder.mlp.0", features)))
    y_ND = p["y_embedder.embedding_table.weight"][y]
    if spec.conditioning == "IN_CONTEXT":
        x = torch.cat([x, t_ND[:, None], y_ND[:, None]], dim=1)
    taps = {} if taps is None else taps
    taps.update({"t_embedding": t_ND, "y_embedding": y_ND, "embedding": x})
    for i in range(spec.depth):
        x = _block(spec, p, i, x, t_ND, y_ND)
        taps[f"block.{i}"] = x
    x = x[:, :spec.tokens]
    if MODULATIONS[spec.conditioning]:
        shift, scale = _linear(p, "final_layer.adaLN_modulation.1", F.silu(t_ND + y_ND)).chunk(2, dim=1)
        x = _modulated_norm(x, shift, scale)
    else:
        x = _affine_norm(p, "final_layer.norm_final", x)
    x = _linear(p, "final_layer.linear", x).reshape(batch, grid, grid, patch, patch, spec.out_channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, spec.out_channels, spec.side, spec.side)


class Diffusion:
    """Tables in fp64 over `timesteps`, the kept original steps (all of them unless sampling is respaced)."""

    def __init__(self, spec, kept=None):
        self.spec = spec
        alpha_bar = np.cumprod(1 - _betas(spec))
        self.timesteps = list(range(spec.steps)) if kept is None else list(kept)
        alpha_bar = alpha_bar[self.timesteps]
        previous = np.append(1.0, alpha_bar[:-1])
        beta = _betas(spec) if kept is None else 1 - alpha_bar / previous
        posterior = beta * (1 - previous) / (1 - alpha_bar)
        table = lambda values: torch.tensor(values, dtype=torch.float64)
        self.alpha_bar, self.alpha_bar_previous = table(alpha_bar), table(previous)
        self.log_beta = table(np.log(beta))
        self.posterior_log_variance = table(np.log(np.append(posterior[1], posterior[1:])))
        self.fixed_log_variance = table(np.log(np.append(posterior[1], beta[1:])))
        self.x0_weight = table(beta * np.sqrt(previous) / (1 - alpha_bar))
        self.xt_weight = table((1 - previous) * np.sqrt(1 - beta) / (1 - alpha_bar))

    def at(self, values, index):
        return values[index][:, None, None, None]

    def noised(self, x0, noise, index):
        alpha_bar = self.at(self.alpha_bar, index)
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise

    def target(self, x0, noise, index):
        alpha_bar = self.at(self.alpha_bar, index)
        return {"EPSILON": noise, "X0": x0,
                "V": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0}[self.spec.prediction]

    def predicted_x0(self, prediction, x_t, index):
        alpha_bar = self.at(self.alpha_bar, index)
        if self.spec.prediction == "EPSILON":
            return (x_t - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
        if self.spec.prediction == "V":
            return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * prediction
        return prediction

    def mean(self, x0, x_t, index):
        return self.at(self.x0_weight, index) * x0 + self.at(self.xt_weight, index) * x_t

    def log_variance(self, values, index):
        """Interpolates between the clipped posterior variance (-1) and beta (+1); `values` None means fixed."""
        if values is None:
            return self.at(self.fixed_log_variance, index)
        fraction = (values + 1) / 2
        return fraction * self.at(self.log_beta, index) + (1 - fraction) * self.at(self.posterior_log_variance, index)

    def losses(self, output, x0, x_t, noise, index):
        """(loss, mse, vb), fp64 scalars. vb sees the prediction detached."""
        output = output.double()
        prediction = output[:, :self.spec.channels]
        mse = ((self.target(x0, noise, index) - prediction) ** 2).mean(dim=(1, 2, 3)).mean()
        if not self.spec.learn_sigma:
            return mse, mse, torch.zeros((), dtype=torch.float64)
        log_variance = self.log_variance(output[:, self.spec.channels:], index)
        mean = self.mean(self.predicted_x0(prediction.detach(), x_t, index), x_t, index)
        kl = normal_kl(self.mean(x0, x_t, index), self.at(self.posterior_log_variance, index), mean, log_variance)
        nll = discretised_nll(x0, mean, log_variance)
        element = torch.where((index == 0)[:, None, None, None], nll, kl)
        vb = (element.mean(dim=(1, 2, 3)) / math.log(2)).mean()
        return mse + vb, mse, vb


def _betas(spec):
    if spec.schedule == "LINEAR":
        scale = 1000 / spec.steps
        return np.linspace(scale * 1e-4, scale * 0.02, spec.steps, dtype=np.float64)
    curve = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.array([min(1 - curve((i + 1) / spec.steps) / curve(i / spec.steps), 0.999) for i in range(spec.steps)])


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    return 0.5 * (-1 + log_variance2 - log_variance1 + torch.exp(log_variance1 - log_variance2)
                  + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def discretised_nll(x, mean, log_variance):
    """-log P of the bin x +- 1/255 under a Gaussian whose CDF is (1 + tanh(u)) / 2.

    Logarithms of the CDF and of differences of it are formed without subtracting nearly equal numbers:
    (tanh a - tanh b) / 2 = sinh(a - b) / (2 cosh a cosh b).
    """
    inverse_std = torch.exp(-0.5 * log_variance)
    upper, lower = inverse_std * (x - mean + 1 / 255), inverse_std * (x - mean - 1 / 255)
    factor, cubic, floor = math.sqrt(2 / math.pi), 0.044715, math.log(1e-12)
    a, b = (factor * (z + cubic * z ** 3) for z in (upper, lower))
    gap = factor * (2 / 255) * inverse_std * (1 + cubic * (upper ** 2 + upper * lower + lower ** 2))
    log_cosh = lambda z: z.abs() + torch.log1p(torch.exp(-2 * z.abs())) - math.log(2)
    log_sinh = gap + torch.log(-torch.expm1(-2 * gap)) - math.log(2)
    inside = log_sinh - math.log(2) - log_cosh(a) - log_cosh(b)
    left, right = F.logsigmoid(2 * a), F.logsigmoid(-2 * b)
    return -torch.clamp(torch.where(x < -0.999, left, torch.where(x > 0.999, right, inside)), min=floor)


def to_parameters(weights, dtype):
    """Leaf tensors of `dtype` from {name: array}; all but pos_embed require gradients."""
    return {name: torch.tensor(value).to(dtype).requires_grad_(name != "pos_embed") for name, value in weights.items()}


def loss_of(spec, diffusion, p, x0, noise, t, y, taps=None):
    """(output, loss, mse, vb) of one forward pass; x0, noise fp64, t and y int64 tensors."""
    x_t = diffusion.noised(x0, noise, t)
    output = forward(spec, p, x_t.to(p["x_embedder.proj.bias"].dtype), t, y, taps)
    return (output,) + diffusion.losses(output, x0, x_t, noise, t)


def parity(spec, weights, inputs, dtype=torch.float64):
    """({output, loss, mse, vb, grad.*}, {activation name: array}) as fp64 arrays."""
    p = to_parameters(weights, dtype)
    x0, noise = (torch.tensor(inputs[name]).double() for name in ("x", "noise"))
    taps = {}
    output, loss, mse, vb = loss_of(spec, Diffusion(spec), p, x0, noise, torch.tensor(inputs["t"]),
                                    torch.tensor(inputs["y"]), taps)
    loss.backward()
    array = lambda tensor: tensor.detach().double().numpy()
    results = {"output": array(output)}
    results.update({name: array(value).reshape(1) for name, value in (("loss", loss), ("mse", mse), ("vb", vb))})
    results.update({"grad." + name: array(value.grad) for name, value in p.items() if value.requires_grad})
    return results, {name: array(value) for name, value in taps.items()}


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.9


def train(spec, weights, inputs, optimizer, dtype=torch.float64):
    """AdamW with EMA over inputs[x, noise, t, y][step]. Returns ({loss, mse, vb, grad_norm: (steps,)}, weights, ema).

    The norm is over all trainable parameters, before clipping; clipping scales by min(1, clip_norm / norm).
    """
    diffusion, p, o = Diffusion(spec), to_parameters(weights, dtype), optimizer
    trainable = [value for value in p.values() if value.requires_grad]
    first, second = [torch.zeros_like(v) for v in trainable], [torch.zeros_like(v) for v in trainable]
    ema = {name: value.detach().clone() for name, value in p.items()}
    history = {name: [] for name in ("loss", "mse", "vb", "grad_norm")}
    for step in range(len(inputs["x"])):
        x0, noise = (torch.tensor(inputs[name][step]).double() for name in ("x", "noise"))
        t, y = (torch.tensor(inputs[name][step]) for name in ("t", "y"))
        _, loss, mse, vb = loss_of(spec, diffusion, p, x0, noise, t, y)
        gradients = torch.autograd.grad(loss, trainable)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        scale = min(1.0, o.clip_norm / norm) if o.clip_norm > 0 else 1.0
        with torch.no_grad():
            for value, gradient, m, v in zip(trainable, gradients, first, second):
                gradient = gradient * scale
                m.mul_(o.beta1).add_(gradient * (1 - o.beta1))
                v.mul_(o.beta2).add_(gradient ** 2 * (1 - o.beta2))
                m_hat, v_hat = m / (1 - o.beta1 ** (step + 1)), v / (1 - o.beta2 ** (step + 1))
                value.mul_(1 - o.learning_rate * o.weight_decay)
                value.sub_(o.learning_rate * m_hat / (v_hat.sqrt() + o.epsilon))
            for name, value in p.items():
                ema[name] = o.ema_decay * ema[name] + (1 - o.ema_decay) * value
        for name, value in zip(history, (loss.item(), mse.item(), vb.item(), norm)):
            history[name].append(value)
    array = lambda values: {name: value.detach().double().numpy() for name, value in values.items()}
    return {name: np.array(values) for name, values in history.items()}, array(p), array(ema)


def kept_steps(steps, kept):
    """round(i (steps - 1) / (kept - 1)), half to even."""
    return [round(i * (steps - 1) / (kept - 1)) for i in range(kept)]


def sample(spec, weights, latent, noise, y, sampler="ddpm", cfg_scale=1.0, cfg_channels=None, eta=0.0,
           dtype=torch.float64):
    """Latents after every step, (kept, N, C, S, S), first the one after the noisiest step.

    noise (kept, N, C, S, S) is consumed in that order; the last step adds none. Guidance acts on the first
    `cfg_channels` of the predicted channels (None: all); the others and the variance come from the conditional half.
    """
    diffusion = Diffusion(spec, kept_steps(spec.steps, len(noise)))
    p = to_parameters(weights, dtype)
    x, noise, y = torch.tensor(latent).double(), torch.tensor(noise).double(), torch.tensor(y)
    guided = spec.channels if cfg_channels is None else cfg_channels
    latents = []
    with torch.no_grad():
        for step, i in enumerate(reversed(range(len(noise)))):
            t = torch.full_like(y, diffusion.timesteps[i])
            output = forward(spec, p, x.to(dtype), t, y).double()
            if cfg_scale != 1.0:
                null = forward(spec, p, x.to(dtype), t, torch.full_like(y, spec.classes)).double()
                output[:, :guided] = null[:, :guided] + cfg_scale * (output[:, :guided] - null[:, :guided])
            index = torch.full_like(y, i)
            x0 = diffusion.predicted_x0(output[:, :spec.channels], x, index)
            step_of = {"ddpm": _ddpm_step, "ddim": _ddim_step}[sampler]
            x = step_of(diffusion, output, x0, x, noise[step] * (i != 0), index, eta)
            latents.append(x.numpy().copy())
    return np.stack(latents)


def _ddpm_step(diffusion, output, x0, x, noise, index, eta):
    channels = diffusion.spec.channels
    log_variance = diffusion.log_variance(output[:, channels:] if diffusion.spec.learn_sigma else None, index)
    return diffusion.mean(x0, x, index) + torch.exp(0.5 * log_variance) * noise


def _ddim_step(diffusion, output, x0, x, noise, index, eta):
    alpha_bar, previous = diffusion.at(diffusion.alpha_bar, index), diffusion.at(diffusion.alpha_bar_previous, index)
    epsilon = (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    sigma = eta * ((1 - previous) / (1 - alpha_bar)).sqrt() * (1 - alpha_bar / previous).sqrt()
    return previous.sqrt() * x0 + (1 - previous - sigma ** 2).sqrt() * epsilon + sigma * noise


def random_weights(spec, rng):
    """fp32 weights with every parameter non-zero, scaled so that activations and output stay near 1."""
    weights = {}
    for name, shape in parameter_shapes(spec).items():
        if name == "pos_embed":
            weights[name] = position_table(spec).astype(np.float32)
            continue
        value = rng.standard_normal(shape)
        if "norm" in name:
            value = 0.2 * value + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            value *= 0.1
        elif name.startswith("y_embedder"):
            value *= 0.5
        else:
            value *= (0.5 if "adaLN" in name else 0.8) / math.sqrt(np.prod(shape[1:]))
        weights[name] = value.astype(np.float32)
    return weights


def random_inputs(spec, rng, batch, lead=()):
    """x, noise, t, y of shape lead + (batch, ...). Sample 0 has t = 0, sample 1 the last t and the null class."""
    shape = lead + (batch, spec.channels, spec.side, spec.side)
    t = rng.integers(0, spec.steps, lead + (batch,))
    y = rng.integers(0, spec.classes, lead + (batch,))
    t[..., 0] = 0
    if batch > 1:
        t[..., 1], y[..., 1] = spec.steps - 1, spec.classes
    return {"x": rng.standard_normal(shape).astype(np.float32), "noise": rng.standard_normal(shape).astype(np.float32),
            "t": t.astype(np.int64), "y": y.astype(np.int64)}


def relative_error(value, reference):
    """max|a - b| / max|b|; 0 when both are all zero, infinite when shapes differ or a value is not finite."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape or not np.isfinite(value).all():
        return math.inf
    difference, scale = np.abs(value - reference).max(initial=0), np.abs(reference).max(initial=0)
    return 0.0 if difference == 0 else math.inf if scale == 0 else difference / scale


def run_parity(arguments):
    with open(arguments.config) as file:
        spec = Spec.parse(file.read())
    weights, inputs = safetensors.read(arguments.weights), safetensors.read(arguments.inputs)
    weights.setdefault("pos_embed", position_table(spec).astype(np.float32))
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != parameter_shapes(spec):
        raise SystemExit(f"{arguments.weights}: tensors do not match the model of {arguments.config}")
    results, _ = parity(spec, weights, inputs, {"fp32": torch.float32, "fp64": torch.float64}[arguments.dtype])
    safetensors.write(arguments.outputs, {name: value.astype(np.float32) for name, value in results.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("selftest")
    command = commands.add_parser("parity")
    for name in ("config", "weights", "inputs", "outputs"):
        command.add_argument("--" + name, required=True)
    command.add_argument("--dtype", choices=("fp32", "fp64"), default="fp32")
    arguments = parser.parse_args()
    if arguments.command == "parity":
        return run_parity(arguments)
    import selftest
    sys.exit(selftest.main())


if __name__ == "__main__":
    main()
