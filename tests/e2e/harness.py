"""What the end-to-end tests share: running the program, and data sets to run it on. Python's standard library, numpy
and h5py only."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import h5py
import numpy

SMALL_MODEL = ("model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 } "
               "train { steps: 4 global_batch: 8 } checkpoint { every_steps: 0 } ")


def rows_logged(run):
    """The rows of metrics.jsonl of a run folder."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def committed(run):
    """The steps whose checkpoints a run folder holds. One that is waited for by its number may be gone when looked for."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]" * 7))


def wait_for(condition, process):
    """Until it holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def losses(run):
    return [row["loss"] for row in rows_logged(run)]


def steps_logged(run):
    return [row["step"] for row in rows_logged(run)]


def checkpoint_bytes(run, step):
    """The shards of a committed step, by name; empty if it is not there."""
    return {path.name: path.read_bytes() for path in (run / "checkpoints" / f"{step:07d}").glob("shard-*")}


class Harness:
    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--shardit", required=True, help="the program")
        parser.add_argument("--mpirun", required=True, nargs=argparse.REMAINDER, help="launcher and its flags, last")
        options = parser.parse_args()
        self.program = str(pathlib.Path(options.shardit).resolve())
        self.mpirun = options.mpirun
        self.failures = 0
        self.checks = 0
        self._folder = tempfile.TemporaryDirectory(prefix="shardit_e2e_")
        self.folder = pathlib.Path(self._folder.name).resolve()

    def run(self, *arguments, ranks=0, timeout=600):
        """Runs the program; with ranks > 0 under the launcher. Returns subprocess.CompletedProcess with text."""
        command = [*self.mpirun, "-n", str(ranks)] if ranks else []
        return subprocess.run([*command, self.program, *map(str, arguments)], capture_output=True, text=True,
                              timeout=timeout, cwd=self.folder, check=False)

    def expect(self, condition, message):
        self.checks += 1
        if not condition:
            self.failures += 1
            print(f"FAILED: {message}", file=sys.stderr)

    def files(self):
        """Every path below the test's folder, to see that nothing was written."""
        return sorted(str(path) for path in self.folder.rglob("*"))

    def write_data(self, name, count=24, channels=1, side=8, classes=3, labels=None, key="latents"):
        """An HDF5 file as h5py users write it."""
        path = self.folder / name
        random = numpy.random.default_rng(0)
        with h5py.File(path, "w") as file:
            file[key] = random.standard_normal((count, channels, side, side), dtype=numpy.float32)
            file["labels"] = numpy.arange(count) % classes if labels is None else numpy.asarray(labels)
        return path

    def write_moments(self, name, count=24, channels=1, side=8, classes=3):
        """A file of means and standard deviations, for a posterior draw."""
        path = self.folder / name
        random = numpy.random.default_rng(1)
        shape = (count, channels, side, side)
        moments = [random.standard_normal(shape, dtype=numpy.float32), random.random(shape, dtype=numpy.float32)]
        with h5py.File(path, "w") as file:
            file["moments"] = numpy.concatenate(moments, axis=1)
            file["labels"] = numpy.arange(count) % classes
            file.attrs["scale"] = 0.5
        return path

    def write_config(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def write_script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def finish(self):
        self._folder.cleanup()
        print(f"{self.checks - self.failures} of {self.checks} checks passed")
        sys.exit(1 if self.failures or not self.checks else 0)
