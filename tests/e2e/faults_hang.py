#!/usr/bin/env python3
"""A rank that stops in any phase of a step is named, with its phase and host, and the job ends with exit code 76 and a report;
no process stays behind. Without the folder in which the watchdogs meet it ends too. A rank that was suspended for less than the
deadline goes on. How long the naming took is printed; it is held to the deadline and 5 s where SHARDIT_LONG_TESTS says that
the machine is not shared."""
import concurrent.futures
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

from harness import Harness, committed, losses, wait_for

DEADLINE = 6.0  # seconds: several times what a healthy step takes where a core is shared by many ranks
MARGIN = 5.0
RANKS = 3
CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "data.h5" }
train { steps: 8 global_batch: 12 hang_seconds: %g }
checkpoint { every_steps: 4 }
""" % DEADLINE


def start(t, config, out, fault="", settings=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [*t.mpirun, "-n", str(RANKS), t.program, "train", "--config", str(config), "--out", out, *sets]
    environment = dict(os.environ, SHARDIT_FAULT=fault)
    return subprocess.Popen(command, cwd=t.folder, env=environment, stderr=subprocess.PIPE, text=True)


def ranks_of(process):
    """Process ids of the ranks of a job, by rank."""
    ids = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] != str(process.pid):
                continue
            variables = dict(line.split("=", 1) for line in (entry / "environ").read_text().split("\0") if "=" in line)
            if "OMPI_COMM_WORLD_RANK" in variables:
                ids[int(variables["OMPI_COMM_WORLD_RANK"])] = int(entry.name)
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return ids


def state_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


class Lines(threading.Thread):
    """Reads a job's standard error and remembers when each line came."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.lines = stream, []
        self.start()

    def run(self):
        for line in self.stream:
            self.lines.append((time.monotonic(), line.rstrip()))

    def find(self, text):
        return next(((when, line) for when, line in self.lines if text in line), None)


def check_phase(t, config, what, phase):
    label = f"{what} in {phase}"
    out = f"{what}_{phase}"
    process = start(t, config, out, f"{what}:{phase}:rank1:step4")
    lines = Lines(process.stderr)
    stopped_at, ids = None, {}
    while process.poll() is None:
        if len(ids) < RANKS:
            ids = ranks_of(process)
        elif what == "stop" and stopped_at is None and state_of(ids[1]) == "T":
            stopped_at = time.monotonic()
        time.sleep(0.02)
    lines.join()
    text = "\n".join(line for _, line in lines.lines)
    t.expect(process.returncode == 76, f"{label}: exit code {process.returncode}, expected 76\n{text}")
    found = lines.find("hang: ")
    t.expect(found is not None, f"{label}: no verdict\n{text}")
    if found is None:
        return
    verdict = found[1]
    for part in ("rank 1", socket.gethostname(), f"{phase} of step 4"):
        t.expect(part in verdict, f"{label}: {part!r} is not in {verdict!r}")
    for rank in (0, 2):
        t.expect(f"rank {rank} " not in verdict, f"{label}: a victim is named in {verdict!r}")
    if what == "stop":
        t.expect("stopped by a signal" in verdict, f"{label}: {verdict!r}")
        t.expect(stopped_at is not None, f"{label}: rank 1 never stopped")
        took = found[0] - (stopped_at or 0)
        if os.environ.get("SHARDIT_LONG_TESTS"):
            t.expect(took <= DEADLINE + MARGIN, f"{label}: named after {took:.1f} s")
        print(f"{label}: named {took:.1f} s after it stopped")
    report = (t.folder / out / "hang_report.txt").read_text()
    t.expect(verdict.split(": ", 1)[1].split("; see ")[0] in report, f"{label}: the report lacks the verdict")
    for rank in range(RANKS):
        t.expect(f"---- rank {rank} " in report, f"{label}: the report lacks rank {rank}")
    t.expect("all-reduce" in report, f"{label}: the report lacks collectives")
    for _ in range(100):  # the kernel may still be at it
        behind = [pid for pid in ids.values() if state_of(pid) not in ("gone", "Z")]
        if behind:
            time.sleep(0.05)
    t.expect(not behind, f"{label}: processes {behind} stayed behind")


def check_no_folder(t, config):
    """Watchdogs that cannot meet, as on a full disk: the job ends all the same, a little later."""
    process = start(t, config, "no_folder", "block:forward:rank1:step4")
    lines = Lines(process.stderr)
    while process.poll() is None:
        shutil.rmtree(t.folder / "no_folder" / "watch", ignore_errors=True)
        time.sleep(0.02)
    lines.join()
    text = "\n".join(line for _, line in lines.lines)
    t.expect(process.returncode == 76, f"no folder to meet in: exit code {process.returncode}, expected 76\n{text}")
    t.expect("hang: no report came" in text, f"no folder to meet in: {text}")


def check_short_pause(t, config):
    """Shorter than the deadline: the run goes on, with the losses of a run left alone."""
    process = start(t, config, "paused", settings=["train.steps=600"])
    lines = Lines(process.stderr)
    wait_for(lambda: committed(t.folder / "paused"), process)
    pid = ranks_of(process).get(1, 0)
    t.expect(pid, f"pause: the run has ended\n{lines.lines}")
    if not pid:
        return
    os.kill(pid, signal.SIGSTOP)
    time.sleep(DEADLINE / 2)
    os.kill(pid, signal.SIGCONT)
    t.expect(process.wait(timeout=600) == 0, f"pause: exit code {process.returncode}\n{lines.lines}")
    t.expect(not (t.folder / "paused" / "hang_report.txt").exists(), "pause: a hang was reported")
    t.expect(not (t.folder / "paused" / "watch").exists(), "pause: the watchdogs' folder stayed behind")
    whole = start(t, config, "alone", settings=["train.steps=600"])
    whole.communicate(timeout=600)
    t.expect(losses(t.folder / "paused") == losses(t.folder / "alone"), "pause: the losses differ")


def main():
    t = Harness()
    t.write_data("data.h5")
    config = t.write_config("hang.textproto", CONFIG)
    cases = [("stop", phase) for phase in ("forward", "backward", "collective", "data_wait", "save")]
    cases.append(("block", "forward"))
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:  # jobs that mostly wait
        no_folder = pool.submit(check_no_folder, t, config)
        list(pool.map(lambda case: check_phase(t, config, *case), cases))
        no_folder.result()
    check_short_pause(t, config)
    t.finish()


if __name__ == "__main__":
    main()
