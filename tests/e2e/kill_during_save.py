#!/usr/bin/env python3
"""SIGKILL during a save: at every named point, and at random times. The run always resumes, ends with the bits of a run
that nobody disturbed, and its metrics have every row once. 100 random kills; 500 where SHARDIT_LONG_TESTS is set, and
then every named point on two ranks too."""
import os
import random
import re
import subprocess
import time

from harness import Harness, checkpoint_bytes, losses, steps_logged

STEPS = 40
CONFIG = f"""
model {{ depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }}
data {{ path: "data.h5" }}
train {{ steps: {STEPS} global_batch: 4 seed: 5 threads: 1 }}
checkpoint {{ every_steps: 1 keep_last: 2 keep_every: 7 }}
log {{ every_steps: 1 tensorboard: false }}
"""


def command(t, out, ranks):
    launcher = [*t.mpirun, "-n", str(ranks)] if ranks else []
    return [*launcher, t.program, "train", "--config", "run.textproto", "--out", out]


def kill_points():
    """The table in the checkpoint writer's header: a point that is added there is tested here."""
    header = os.path.join(os.path.dirname(__file__), "../../trainer/checkpoint/checkpoint_writer.h")
    with open(header, encoding="utf-8") as file:
        return re.findall(r'"(checkpoint\.[a-z_]+)"', file.read())


def expect_whole(t, out, label):
    t.expect(steps_logged(t.folder / out) == list(range(1, STEPS + 1)), f"{label}: rows {steps_logged(t.folder / out)}")
    t.expect(losses(t.folder / out) == losses(t.folder / "undisturbed"), f"{label}: losses differ")
    final = checkpoint_bytes(t.folder / out, STEPS)
    t.expect(final and final == checkpoint_bytes(t.folder / "undisturbed", STEPS), f"{label}: final states differ")
    leftovers = [path.name for path in (t.folder / out / "checkpoints").iterdir() if ".tmp-" in path.name]
    t.expect(not leftovers, f"{label}: left behind {leftovers}")


# On two ranks: before the folder is there for all, with one shard written, with all, and after the commit.
TWO_RANK_POINTS = ["checkpoint.folder_made", "checkpoint.shard_written", "checkpoint.shards_agreed",
                   "checkpoint.renamed"]


def check_named_points(t, points, ranks):
    for point in points:
        out = f"{point.replace('.', '_')}_{ranks}"
        environment = dict(os.environ, SHARDIT_KILL_POINT=f"{point}:3")
        done = subprocess.run(command(t, out, ranks), cwd=t.folder, env=environment, capture_output=True, check=False)
        t.expect(was_killed(done.returncode, ranks), f"{point}: exit code {done.returncode}, expected to be killed")
        done = subprocess.run(command(t, out, ranks), cwd=t.folder, capture_output=True, text=True, check=False)
        t.expect(done.returncode == 0, f"{point}: does not resume: {done.stderr}")
        expect_whole(t, out, point) if ranks == 0 else expect_rows(t, out)


def was_killed(code, ranks):
    """mpirun adds 128 to the signal of the rank that died."""
    return code == -9 or (ranks > 0 and code == 137)


def check_random_kills(t, kills, ranks):
    """Kills the same run again and again, at times spread over start-up and saves, until it ends by itself; then the next."""
    begin = time.monotonic()
    subprocess.run(command(t, f"timed_{ranks}", ranks), cwd=t.folder, capture_output=True, check=True)
    whole = time.monotonic() - begin
    generator = random.Random(kills * 10 + ranks)
    killed = runs = 0
    while killed < kills:
        out = f"random_{ranks}_{runs}"
        runs += 1
        while True:
            process = subprocess.Popen(command(t, out, ranks), cwd=t.folder, stderr=subprocess.PIPE, text=True)
            deadline = time.monotonic() + generator.uniform(0.1, 1.0) * whole
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.002)
            if killed < kills and process.poll() is None:
                # Under mpirun the rank dies, not the launcher: as a node's memory killer would do it.
                target = rank_process(process.pid, t.program) if ranks else process.pid
                if target:
                    os.kill(target, 9)
            message = process.communicate(timeout=120)[1]
            if process.returncode == 0:
                break
            died = was_killed(process.returncode, ranks)
            t.expect(died, f"{out}: exit code {process.returncode}: {message}")
            if not died:
                return
            killed += 1
        expect_whole(t, out, f"{out} after kills") if ranks == 0 else expect_rows(t, out)
    print(f"{killed} random kills over {runs} runs on {max(ranks, 1)} rank(s)")


def expect_rows(t, out):
    """On other rank counts the bits differ from one rank's; rows and closeness do not."""
    t.expect(steps_logged(t.folder / out) == list(range(1, STEPS + 1)), f"{out}: rows {steps_logged(t.folder / out)}")
    pairs = zip(losses(t.folder / out), losses(t.folder / "undisturbed"))
    t.expect(max(abs(a - b) / abs(b) for a, b in pairs) < 1e-5, f"{out}: losses differ")


def rank_process(launcher, program):
    """A rank that mpirun has started, or None."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            if parent == launcher and os.path.samefile(f"/proc/{entry}/exe", program):
                return int(entry)
        except (OSError, ValueError):
            continue
    return None


def main():
    t = Harness()
    t.write_data("data.h5", count=24)
    t.write_config("run.textproto", CONFIG)
    done = subprocess.run(command(t, "undisturbed", 0), cwd=t.folder, capture_output=True, text=True, check=False)
    t.expect(done.returncode == 0, done.stderr)
    is_long = os.environ.get("SHARDIT_LONG_TESTS")
    kills = 500 if is_long else 100
    points = kill_points()
    t.expect(len(points) >= 10, f"only {len(points)} kill points found")
    check_named_points(t, points, 0)
    check_named_points(t, points if is_long else TWO_RANK_POINTS, 2)
    check_random_kills(t, kills - kills // 5, 0)
    check_random_kills(t, kills // 5, 2)
    t.finish()


if __name__ == "__main__":
    main()
