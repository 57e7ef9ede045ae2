#!/usr/bin/env python3
"""A run that stops in the middle of epochs 0, 1 and 2 and goes on on other worlds, cut in other ways, takes every sample
once an epoch, in the order of the run that never stopped: samples.jsonl of both are equal."""
import json
import os

from harness import Harness, losses

CONFIG = """
model { depth: 4 width: 32 heads: 4 patch: 2 channels: 2 side: 8 classes: 3 }
data { path: "data.h5" flip: true }
optimizer { learning_rate: 1e-3 }
train { steps: 20 global_batch: 12 seed: 9 }
checkpoint { every_steps: 4 keep_last: 9 }
log { every_steps: 1 tensorboard: false sample_ids: true }
"""
SAMPLES = 80  # 20 steps of 12 are three epochs; epochs end inside steps 7 and 14
# Ranks and settings, from world to world; the stops at steps 3, 10 and 17 lie inside epochs 0, 1 and 2.
PLACES = {
    1: ["train.micro_batch=4"],
    2: ["parallel.tp=2", "parallel.sequence_parallel=true"],
    3: ["parallel.zero_stage=3", "train.micro_batch=2"],
    4: ["parallel.pp=2", "parallel.zero_stage=1", "parallel.schedule=ZERO_BUBBLE_H1"],
}
OTHERS = {
    1: [],
    2: ["parallel.zero_stage=2"],
    3: ["parallel.pp=3", "parallel.schedule=GPIPE"],
    4: ["parallel.tp=2", "parallel.zero_stage=3", "train.micro_batch=3"],
}
ROUTES = [(PLACES, [1, 2, 3, 4]), (OTHERS, [4, 3, 1, 2]), (PLACES, [3, 4, 2, 1]), (OTHERS, [2, 1, 4, 3])]
STOPS = [3, 7, 7]  # steps of each run but the last


def train(t, out, ranks, settings, extra=(), code=0):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", "run.textproto", "--out", out, *sets, *extra, ranks=0 if ranks == 1 else ranks)
    t.expect(done.returncode == code, f"{out} on {ranks} ranks {settings}: exit code {done.returncode}\n{done.stderr}")


def rows_of(t, out):
    return [json.loads(line) for line in (t.folder / out / "samples.jsonl").read_text().splitlines()]


def check_epochs(t, out):
    rows = rows_of(t, out)
    t.expect([row["step"] for row in rows] == list(range(1, 21)), f"{out}: rows of {[row['step'] for row in rows]}")
    ids = [sample for row in rows for sample in row["ids"]]
    t.expect(len(ids) == 3 * SAMPLES, f"{out}: {len(ids)} samples")
    epochs = [ids[i:i + SAMPLES] for i in range(0, len(ids), SAMPLES)]
    for index, epoch in enumerate(epochs):
        t.expect(sorted(epoch) == list(range(SAMPLES)), f"{out}: epoch {index} does not have every sample once")
    t.expect(epochs[0] != epochs[1] and epochs[1] != epochs[2], f"{out}: epochs have the same order")


def check_route(t, number, places, worlds):
    out = f"route_{number}"
    for index, ranks in enumerate(worlds):
        last = index == len(worlds) - 1
        train(t, out, ranks, places[ranks], [] if last else ["--stop-after", STOPS[index]], 0 if last else 75)
    t.expect(rows_of(t, out) == rows_of(t, "whole"), f"{worlds}: other samples than the run that never stopped")
    error = max(abs(a - b) / abs(b) for a, b in zip(losses(t.folder / out), losses(t.folder / "whole")))
    t.expect(len(losses(t.folder / out)) == 20 and error <= 1e-5, f"{worlds}: relative error {error}")


def check_going_back(t):
    """A resume at an earlier step drops the later rows and writes them again."""
    train(t, "route_0", 2, [*OTHERS[2], "train.steps=14"], ["--resume", "8"])
    t.expect(rows_of(t, "route_0") == rows_of(t, "whole")[:14], "back to step 8: other samples")


def main():
    t = Harness()
    t.write_data("data.h5", count=SAMPLES, channels=2)
    t.write_config("run.textproto", CONFIG)
    train(t, "whole", 1, [])
    check_epochs(t, "whole")
    for number, (places, worlds) in enumerate(ROUTES if os.environ.get("SHARDIT_LONG_TESTS") == "1" else ROUTES[:2]):
        check_route(t, number, places, worlds)
    check_going_back(t)
    t.finish()


if __name__ == "__main__":
    main()
