#!/usr/bin/env python3
"""Draws random small models of all four designs and compares `shardit parity` with the fp64 oracle.

For each case the given program runs `parity --config F --weights W --inputs I --outputs O`; the worst relative error of
each tensor (max|a - b| / max|b|) is taken against the oracle. Exits 1 when an error exceeds the tolerance, a tensor is
missing, unexpected or misshapen, or the program fails. The same seed draws the same cases. `--binary` may hold arguments:
`--binary "python3 oracle.py"` shows what torch itself reaches in fp32.
"""
import argparse
import collections
import math
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch

import oracle
import safetensors
from oracle import Spec

ROOT = pathlib.Path(__file__).resolve().parents[2]


def draw_spec(rng, conditioning):
    """At least 16 elements a sample: the loss of one element can cancel, and then no fp32 model meets the tolerance."""
    patch = int(rng.choice([1, 2, 3, 4, 8], p=[0.25, 0.4, 0.1, 0.15, 0.1]))
    grid = int(rng.integers(-(-4 // patch), 12 if patch < 3 else 5))
    head_dim = int(rng.choice([4, 8, 12, 16, 20, 32, 36, 64, 72]))
    heads = int(rng.choice([h for h in (1, 2, 3, 4, 6) if h * head_dim <= 160]))
    return Spec(conditioning, depth=int(rng.integers(1, 4)), width=heads * head_dim, heads=heads, patch=patch,
                channels=int(rng.integers(1, 5)), side=grid * patch, classes=int(rng.choice([1, 2, 10, 33])),
                learn_sigma=bool(rng.random() < 0.7), schedule=str(rng.choice(["LINEAR", "COSINE"], p=[0.7, 0.3])),
                prediction=str(rng.choice(["EPSILON", "X0", "V"], p=[0.6, 0.2, 0.2])))


def run_case(command, spec, rng, folder):
    """({tensor: relative error}, worst error of torch in fp32); a missing, unexpected or misshapen tensor is inf."""
    weights, inputs = oracle.random_weights(spec, rng), oracle.random_inputs(spec, rng, int(rng.integers(1, 6)))
    if rng.random() < 0.5:
        del weights["pos_embed"]  # optional in the weights
    paths = {name: folder / f"{name}.safetensors" for name in ("weights", "inputs", "outputs")}
    paths["config"] = folder / "config.textproto"
    paths["config"].write_text(spec.textproto())
    paths["outputs"].unlink(missing_ok=True)
    safetensors.write(paths["weights"], weights)
    safetensors.write(paths["inputs"], inputs)
    arguments = [text for name, path in paths.items() for text in ("--" + name, str(path))]
    done = subprocess.run(command + ["parity"] + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or not paths["outputs"].exists():
        print(done.stdout.strip()[-2000:])
        return {f"exit code {done.returncode}": math.inf}, 0.0
    actual = safetensors.read(paths["outputs"])
    weights.setdefault("pos_embed", oracle.position_table(spec).astype(np.float32))
    expected, _ = oracle.parity(spec, weights, inputs)
    errors = {name: math.inf for name in sorted(set(actual) ^ set(expected))}
    errors.update({name: oracle.relative_error(actual[name], expected[name]) for name in set(actual) & set(expected)})
    rounded, _ = oracle.parity(spec, weights, inputs, torch.float32)
    return errors, max(oracle.relative_error(rounded[name], expected[name]) for name in expected)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/bin/shardit"), help="program under test")
    parser.add_argument("--cases", type=int, default=20, help="number of random models (designs take turns)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--keep", type=pathlib.Path, help="keep the files of failed cases below this folder")
    options = parser.parse_args()
    torch.set_num_threads(2)
    worst_of, failures = collections.defaultdict(float), 0
    for case in range(options.cases):
        rng = np.random.default_rng([options.seed, case])
        spec = draw_spec(rng, oracle.DESIGNS[case % len(oracle.DESIGNS)])
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            errors, attainable = run_case(shlex.split(options.binary), spec, rng, folder)
            worst = max(errors, key=errors.get)
            failed = errors[worst] > options.tolerance
            if failed and options.keep:
                shutil.copytree(folder, options.keep / f"seed{options.seed}_case{case}")
        failures += failed
        print(f"{'FAIL' if failed else 'ok  '} {case:3d} {errors[worst]:.1e} {worst}  {spec}", flush=True)
        if failed:
            bad = sorted((name for name in errors if errors[name] > options.tolerance), key=errors.get, reverse=True)
            print(f"     torch in fp32 reaches {attainable:.1e}; failed: "
                  + ", ".join(f"{name} {errors[name]:.1e}" for name in bad[:12]))
        for name, error in errors.items():
            kind = ".".join("N" if part.isdigit() and name.startswith("grad.blocks") and i == 2 else part
                            for i, part in enumerate(name.split(".")))
            worst_of[kind] = max(worst_of[kind], error)
    print("\nworst relative error of each tensor")
    for name, error in sorted(worst_of.items(), key=lambda item: -item[1]):
        print(f"{error:9.1e}  {name}")
    print(f"{options.cases - failures} of {options.cases} cases within {options.tolerance:.0e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
