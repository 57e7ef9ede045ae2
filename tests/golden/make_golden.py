#!/usr/bin/env python3
"""Writes the committed golden cases under tests/golden/cases; README.md documents every file and key.

Each case is also evaluated with fp32 parameters and activations; the worst relative error against the fp64 result
is printed. It says how well conditioned the case is and must stay well below the tolerance of the tests that read it,
so the script fails when it does not. Output is deterministic: rewriting with the same torch changes no byte.
"""
import argparse
import pathlib
import shutil
import sys

import numpy as np
import torch

import oracle
import safetensors
from oracle import Optimizer, Spec

# name -> (seed, batch, spec). Activations are stored for the cases in WITH_ACTIVATIONS.
PARITY = {
    "adaln_zero": (1, 4, Spec("ADALN_ZERO", 2, 16, 2, 2, 4, 8, 10)),
    "adaln": (2, 4, Spec("ADALN", 2, 16, 2, 2, 4, 8, 10)),
    "cross_attention": (3, 4, Spec("CROSS_ATTENTION", 2, 16, 2, 2, 4, 8, 10)),
    "in_context": (4, 4, Spec("IN_CONTEXT", 2, 16, 2, 2, 4, 8, 10)),
    "in_context_head72": (5, 2, Spec("IN_CONTEXT", 1, 72, 1, 2, 3, 6, 3)),
    "adaln_zero_patch1_side5": (6, 3, Spec("ADALN_ZERO", 2, 12, 3, 1, 1, 5, 2)),
    "adaln_zero_x0_side10": (7, 3, Spec("ADALN_ZERO", 1, 16, 1, 2, 3, 10, 5, prediction="X0")),
    "adaln_v_cosine_side6": (8, 4, Spec("ADALN", 1, 20, 5, 2, 2, 6, 5, True, "COSINE", "V")),
    "adaln_fixed_sigma_patch4": (9, 3, Spec("ADALN", 1, 16, 4, 4, 1, 12, 5, False)),
    "cross_attention_cosine_side9": (10, 3, Spec("CROSS_ATTENTION", 2, 12, 1, 3, 2, 9, 4, True, "COSINE")),
    "cross_attention_v_fixed_sigma": (11, 4, Spec("CROSS_ATTENTION", 1, 16, 2, 1, 4, 4, 1, False, "LINEAR", "V")),
    "in_context_x0_cosine_patch1": (12, 3, Spec("IN_CONTEXT", 2, 12, 2, 1, 3, 3, 6, False, "COSINE", "X0")),
}
WITH_ACTIVATIONS = ("adaln_zero", "adaln", "cross_attention", "in_context")

# AdamW divides by |gradient| + epsilon. The keys' bias has gradient zero in exact arithmetic, so that a tiny epsilon
# turns rounding noise into steps of full size; 1e-5 keeps the final weights comparable between precisions.
TRAIN_STEPS = 20
TRAIN = {
    "train_adaln_zero": (21, Spec("ADALN_ZERO", 2, 12, 2, 2, 2, 4, 4), Optimizer(epsilon=1e-5)),
    "train_adaln": (22, Spec("ADALN", 2, 12, 2, 2, 2, 4, 4), Optimizer(epsilon=1e-5)),
    "train_cross_attention": (23, Spec("CROSS_ATTENTION", 2, 12, 2, 2, 2, 4, 4), Optimizer(epsilon=1e-5)),
    "train_in_context": (24, Spec("IN_CONTEXT", 2, 12, 2, 2, 2, 4, 4), Optimizer(epsilon=1e-5)),
    "train_clip_decay": (25, Spec("ADALN_ZERO", 1, 12, 2, 2, 2, 4, 4),
                         Optimizer(epsilon=1e-5, weight_decay=0.1, clip_norm=0.5)),
}

# name -> (seed, spec, {variant: keyword arguments of oracle.sample})
SAMPLE_STEPS = 10
SAMPLE = {
    "sample_learned_sigma": (31, Spec("ADALN_ZERO", 2, 16, 2, 2, 4, 8, 4), {
        "ddpm": dict(sampler="ddpm"),
        "ddpm_cfg3": dict(sampler="ddpm", cfg_scale=1.5, cfg_channels=3),
        "ddpm_cfg_all": dict(sampler="ddpm", cfg_scale=1.5, cfg_channels=4),
        "ddim_cfg3": dict(sampler="ddim", cfg_scale=1.5, cfg_channels=3),
        "ddim_cfg_all_eta": dict(sampler="ddim", cfg_scale=1.5, cfg_channels=4, eta=0.5),
    }),
    "sample_v_cosine_fixed_sigma": (32, Spec("IN_CONTEXT", 1, 16, 2, 2, 3, 6, 4, False, "COSINE", "V"), {
        "ddpm": dict(sampler="ddpm"),
        "ddim_cfg_all_eta": dict(sampler="ddim", cfg_scale=1.5, cfg_channels=3, eta=0.5),
    }),
    "sample_x0": (33, Spec("IN_CONTEXT", 1, 16, 2, 2, 4, 6, 4, True, "LINEAR", "X0"), {
        "ddpm_cfg3": dict(sampler="ddpm", cfg_scale=1.5, cfg_channels=3),
        "ddim": dict(sampler="ddim"),
    }),
}


def as_float32(values):
    return {name: value.astype(np.float32) for name, value in values.items()}


def worst_error(values, reference):
    return max(oracle.relative_error(values[name], reference[name]) for name in reference)


def write(folder, config, **files):
    folder.mkdir(parents=True)
    (folder / "config.textproto").write_text(config)
    for name, tensors in files.items():
        safetensors.write(folder / f"{name}.safetensors", tensors)


def make_parity(folder, name, seed, batch, spec):
    rng = np.random.default_rng(seed)
    weights, inputs = oracle.random_weights(spec, rng), oracle.random_inputs(spec, rng, batch)
    exact, activations = oracle.parity(spec, weights, inputs)
    rounded, _ = oracle.parity(spec, weights, inputs, torch.float32)
    files = {"weights": weights, "inputs": inputs, "outputs": as_float32(exact)}
    if name in WITH_ACTIVATIONS:
        files["activations"] = as_float32(activations)
    write(folder, spec.textproto(), **files)
    return worst_error(rounded, exact), 1e-5


def make_train(folder, seed, spec, optimizer):
    rng = np.random.default_rng(seed)
    weights = oracle.random_weights(spec, rng)
    inputs = oracle.random_inputs(spec, rng, 4, lead=(TRAIN_STEPS,))
    (history, final, ema), (rounded, rounded_final, rounded_ema) = (
        oracle.train(spec, weights, inputs, optimizer, dtype) for dtype in (torch.float64, torch.float32))
    o = optimizer
    config = spec.textproto() + (
        f"optimizer {{\n  learning_rate: {o.learning_rate} beta1: {o.beta1} beta2: {o.beta2} epsilon: {o.epsilon}\n"
        f"  weight_decay: {o.weight_decay} clip_norm: {o.clip_norm}\n}}\n"
        f"ema {{ decay: {o.ema_decay} }}\ntrain {{ steps: {TRAIN_STEPS} global_batch: 4 }}\n")
    expected = {**history, **{"weights." + name: value for name, value in final.items()},
                **{"ema." + name: value for name, value in ema.items()}}
    write(folder, config, weights=weights, inputs=inputs, outputs=as_float32(expected))
    return max(worst_error(rounded, history), worst_error(rounded_final, final), worst_error(rounded_ema, ema)), 5e-5


def make_sample(folder, seed, spec, variants):
    rng = np.random.default_rng(seed)
    weights, shape = oracle.random_weights(spec, rng), (2, spec.channels, spec.side, spec.side)
    inputs = {"latent": rng.standard_normal(shape).astype(np.float32),
              "noise": rng.standard_normal((SAMPLE_STEPS,) + shape).astype(np.float32), "y": np.array([3, 0], np.int64)}
    outputs, worst = {}, 0.0
    for variant, options in variants.items():
        start = (spec, weights, inputs["latent"], inputs["noise"], inputs["y"])
        exact, rounded = (oracle.sample(*start, dtype=dtype, **options) for dtype in (torch.float64, torch.float32))
        worst = max([worst] + [oracle.relative_error(b, a) for a, b in zip(exact, rounded)])
        outputs[variant] = exact
        inputs[variant + ".ddim"] = np.array([options["sampler"] == "ddim"], np.int64)
        inputs[variant + ".cfg_scale"] = np.array([options.get("cfg_scale", 1.0)], np.float32)
        inputs[variant + ".cfg_channels"] = np.array([options.get("cfg_channels", spec.channels)], np.int64)
        inputs[variant + ".eta"] = np.array([options.get("eta", 0.0)], np.float32)
    write(folder, spec.textproto(), weights=weights, inputs=inputs, outputs=as_float32(outputs))
    return worst, 5e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    makers = [(make_parity, {name: (name,) + case for name, case in PARITY.items()}), (make_train, TRAIN),
              (make_sample, SAMPLE)]
    failed = False
    for maker, cases in makers:
        for name, case in cases.items():
            worst, limit = maker(out / name, *case)
            failed |= not worst < limit
            print(f"{name:32s} fp32 against fp64: {worst:.1e}{'' if worst < limit else '  TOO LARGE'}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size} bytes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
