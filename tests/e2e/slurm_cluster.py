"""The local Slurm cluster (slurm/local_cluster.sh) as the end-to-end tests use it."""
import os
import pathlib
import re
import subprocess
import sys
import time

SKIPPED = 77
PATIENCE = 800  # seconds: for what happens within seconds on an idle machine
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "slurm" / "local_cluster.sh"
TRAIN = ROOT / "slurm" / "train.sbatch"


class Cluster:
    """A cluster of four nodes below the test's folder, for the length of a with statement. Where it cannot be had, the test
    says so and is skipped."""

    def __init__(self, t):
        self.t = t
        self.folder = t.folder / "cluster"

    def __enter__(self):
        done = self.command("start")
        if done.returncode == SKIPPED:
            print(f"SKIPPED: {done.stderr.strip()}")
            sys.exit(SKIPPED)
        if done.returncode:
            self.command("stop")
            sys.exit(f"the cluster did not start: {done.stderr}")
        for line in self.command("env").stdout.splitlines():
            for name, value in re.findall(r"(\w+)=(\S*)", line):
                os.environ[name] = value
        return self

    def __exit__(self, *error):
        self.command("stop")

    def command(self, *words):
        return subprocess.run([SCRIPT, *words, "--dir", self.folder], capture_output=True, text=True, check=False)

    def ask(self, *words):
        for _ in range(5):
            done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=self.t.folder, check=False)
            # A busy controller may not answer a question at once. What changes something is not said twice.
            if words[:2] != ("scontrol", "show") or not re.search("timed out|Unable to contact", done.stderr):
                break
        if done.returncode:
            raise RuntimeError(f"{words}: exit code {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, name, *options, more=()):
        """A job of train.sbatch with run folder and log of this name."""
        return self.ask("sbatch", "--parsable", f"--job-name={name}", f"--output={name}.log", *options, TRAIN,
                        "config.textproto", name, *more)

    def show(self, job):
        """What Slurm knows of a job."""
        text = self.ask("scontrol", "show", "job", "--oneliner", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def log(self, name):
        path = self.t.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, what, condition):
        """Until the condition gives something true; that."""
        for _ in range(PATIENCE * 5):
            value = condition()
            if value:
                return value
            time.sleep(0.2)
        raise RuntimeError(f"waited in vain for {what}\n{self.ask('squeue')}")

    def wait_for_checkpoint(self, name, job):
        folder = self.t.folder / name / "checkpoints"

        def saved():
            if self.show(job)["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING"):
                raise RuntimeError(f"{name} ended without a checkpoint\n{self.log(name)[-2000:]}")
            return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())
        self.wait(f"a checkpoint of {name}", saved)

    def wait_for_end(self, name, job):
        """The job's last word: neither queued, running nor about to be queued again."""
        def ended():
            shown = self.show(job)
            return shown if shown["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") else None
        return self.wait(f"the end of {name}", ended)
