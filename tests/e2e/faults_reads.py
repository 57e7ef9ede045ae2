#!/usr/bin/env python3
"""Samples that one rank cannot read, in a file that opens well: the run ends with exit code 74 and the name of the rank and the
file on every layout, and the steps before are saved: with the file repaired, the same command goes on to the same losses."""
import shlex
import subprocess

import h5py
import numpy

from harness import Harness, checkpoint_bytes, losses, steps_logged

CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "train.h5" validation_path: "held_out.h5" }
train { steps: 6 global_batch: 8 }
checkpoint { every_steps: 4 }
log { every_steps: 1 validate_every: 3 tensorboard: false }
"""
LAYOUTS = ["parallel.dp=2", "parallel.tp=2", "parallel.pp=2", "parallel.zero_stage=3"]
NAMES = ("train.h5", "held_out.h5")


def write_samples(t):
    """A folder of data sets for each rank, sound ones and some with a damaged sample. Compressed samples are read, and found
    to be damaged, one by one."""
    random = numpy.random.default_rng(0)
    for name in NAMES:
        path = t.folder / name
        with h5py.File(path, "w") as file:
            file.create_dataset("latents", data=random.standard_normal((24, 1, 8, 8), dtype=numpy.float32),
                                chunks=(1, 1, 8, 8), compression="gzip", fletcher32=True)
            file["labels"] = numpy.arange(24) % 3
        with h5py.File(path, "r") as file:
            chunk = file["latents"].id.get_chunk_info(13)  # of the second data rank, too
        content = bytearray(path.read_bytes())
        content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
        (t.folder / f"damaged_{name}").write_bytes(content)


def train(t, config, layout, damaged=""):
    """Rank 1 sees the damaged file of that name."""
    for rank in (0, 1):
        folder = t.folder / f"node{rank}"
        folder.mkdir(exist_ok=True)
        for name in NAMES:
            wrong = rank == 1 and name == damaged
            (folder / name).write_bytes((t.folder / (f"damaged_{name}" if wrong else name)).read_bytes())
    words = [t.program, "train", "--config", config, "--out", t.folder / f"{layout}{damaged}", "--set", layout]
    line = f"cd node$OMPI_COMM_WORLD_RANK && exec {shlex.join(map(str, words))}"
    return subprocess.run([*t.mpirun, "-n", "2", "sh", "-c", line], capture_output=True, text=True, cwd=t.folder,
                          timeout=120, check=False)


def check_failure(t, layout, name, done):
    t.expect(done.returncode == 74, f"{layout}, {name}: exit code {done.returncode}, expected 74\n{done.stderr}")
    t.expect("rank 1: " in done.stderr and name in done.stderr, f"{layout}: {name} is not named: {done.stderr}")


def check_held_out(t, config, layout):
    name = "held_out.h5"
    run = t.folder / f"{layout}{name}"
    for step in (3, 6):
        check_failure(t, layout, name, train(t, config, layout, name))
        t.expect(checkpoint_bytes(run, step), f"{layout}: nothing saved at step {step}")
        t.expect(steps_logged(run) == list(range(1, step + 1)), f"{layout}: rows {steps_logged(run)}")
    whole = train(t, config, layout)
    t.expect(whole.returncode == 0, f"{layout}: exit code {whole.returncode}\n{whole.stderr}")
    t.expect(losses(run) == losses(t.folder / layout), f"{layout}: the losses differ")


def main():
    t = Harness()
    write_samples(t)
    config = t.write_config("reads.textproto", CONFIG)
    for layout in LAYOUTS:
        check_held_out(t, config, layout)
    check_failure(t, "parallel.tp=2", "train.h5", train(t, config, "parallel.tp=2", "train.h5"))
    t.finish()


if __name__ == "__main__":
    main()
