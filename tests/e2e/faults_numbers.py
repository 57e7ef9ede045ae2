#!/usr/bin/env python3
"""Numbers that go wrong: a NaN in the gradient of one rank is skipped on all ranks and recorded with its samples; ten in a row
go back to the last checkpoint, and exit 77 if that does not help; a replica whose bits drift is named."""
import json
import os
import socket

from harness import Harness, checkpoint_bytes, losses, rows_logged, steps_logged

CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "data.h5" }
train { steps: 20 global_batch: 8 }
checkpoint { every_steps: 4 keep_last: 9 }
log { every_steps: 1 tensorboard: false }
"""


def train(t, config, out, fault="", settings=(), code=0, ranks=2, extra=()):
    os.environ["SHARDIT_FAULT"] = fault
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", config, "--out", out, *sets, *extra, ranks=ranks)
    t.expect(done.returncode == code, f"{out}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    return done.stderr


def poison(steps, times=1):
    return ",".join(f"poison:gradient:rank1:step{step}" for step in steps for _ in range(times))


def skipped(t, out):
    return [json.loads(line) for line in (t.folder / out / "skipped.jsonl").read_text().splitlines()]


def check_one_nan(t, config):
    train(t, config, "one_nan", poison([6]))
    rows = rows_logged(t.folder / "one_nan")
    t.expect([row["skipped"] for row in rows] == [0] * 5 + [1] * 15, f"skipped: {[row['skipped'] for row in rows]}")
    t.expect(rows[5]["grad_norm"] is None, f"grad_norm of step 6: {rows[5]['grad_norm']}")
    t.expect(all(row["grad_norm"] is not None for row in rows[6:]), "a step after the skipped one has no norm")
    whole = losses(t.folder / "whole")
    t.expect(losses(t.folder / "one_nan")[:6] == whole[:6], "losses up to the NaN differ")
    record = skipped(t, "one_nan")
    t.expect(len(record) == 1 and record[0]["step"] == 6 and record[0]["grad_norm"] is None, f"record: {record}")
    t.expect(len(set(record[0]["sample_ids"])) == 8, f"sample ids of step 6: {record[0]['sample_ids']}")
    # Both ranks skipped it: a rank that had not would have other bits now.
    train(t, config, "compared", poison([6]), ["train.checksum_every=1"])


def check_roll_back(t, config):
    error = train(t, config, "back", poison(range(7, 17)))
    t.expect("back from step 16" in error, f"no roll-back: {error}")
    t.expect(losses(t.folder / "back") == losses(t.folder / "whole"), "the replay differs from a run without faults")
    t.expect(steps_logged(t.folder / "back") == list(range(1, 21)), f"rows {steps_logged(t.folder / 'back')}")
    t.expect(checkpoint_bytes(t.folder / "back", 20) == checkpoint_bytes(t.folder / "whole", 20), "final states differ")
    # From step 4 once more: what lies ahead of it is another branch, and no place to go back to.
    error = train(t, config, "back", poison(range(7, 17)), extra=["--resume", "4"])
    t.expect(error.count("0000004 at step 4") == 2, f"not from step 4: {error}")
    t.expect(losses(t.folder / "back") == losses(t.folder / "whole"), "the replay from step 4 differs")


def check_roll_back_past_a_stop(t, config):
    """A stop amid skipped steps saves them; to go back to that checkpoint would not help."""
    train(t, config, "amid", poison(range(6, 9)), code=75, extra=["--stop-after", "8"])
    t.expect(checkpoint_bytes(t.folder / "amid", 8), "nothing saved at the stop")
    error = train(t, config, "amid", poison(range(9, 16)))
    t.expect("back from step 15" in error and "0000004 at step 4" in error, f"no roll-back to step 4: {error}")
    t.expect(losses(t.folder / "amid") == losses(t.folder / "whole"), "past a stop: the replay differs")


def check_roll_back_of_layouts(t, config):
    """In place: shards, gathered weights and pipelines must all take the checkpoint's state."""
    for settings in (["parallel.zero_stage=1"], ["parallel.zero_stage=3"], ["parallel.tp=2"], ["parallel.pp=2"]):
        name = settings[0].split(".")[1].replace("=", "")
        train(t, config, f"whole_{name}", settings=settings)
        train(t, config, f"back_{name}", poison(range(7, 17)), settings)
        t.expect(losses(t.folder / f"back_{name}") == losses(t.folder / f"whole_{name}"), f"{settings}: losses differ")
        a, b = (checkpoint_bytes(t.folder / f"{kind}_{name}", 20) for kind in ("whole", "back"))
        t.expect(a and a == b, f"{settings}: final states differ")


def check_stop(t, config):
    error = train(t, config, "stop", poison(range(7, 17), times=2), code=77)
    t.expect("10 steps in a row" in error, f"no reason: {error}")
    t.expect(len(skipped(t, "stop")) >= 20, f"{len(skipped(t, 'stop'))} steps recorded")
    train(t, config, "no_checkpoint", poison(range(1, 11)), ["checkpoint.every_steps=0"], code=77)


def check_spikes(t, config):
    """Skips by outliers resume in step: the statistics travel with the checkpoint."""
    settings = ["train.spike_z=1.5", "train.steps=140", "checkpoint.every_steps=60", "train.checksum_every=10"]
    train(t, config, "spikes", settings=settings)
    record = skipped(t, "spikes")
    t.expect(record and all(line["reason"] == "spike" and line["step"] > 100 for line in record), f"spikes: {record}")
    os.environ["SHARDIT_FAULT"] = ""
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", config, "--out", "halves", *sets, "--stop-after", "110", ranks=2)
    t.expect(done.returncode == 75, f"spikes, first part: exit code {done.returncode}\n{done.stderr}")
    train(t, config, "halves", settings=settings)
    t.expect(losses(t.folder / "halves") == losses(t.folder / "spikes"), "spikes: a stop changes the losses")


def check_drift(t, config):
    error = train(t, config, "drift", "flip:parameter:rank1:step5", ["train.checksum_every=3"], code=70, ranks=3)
    t.expect(f"rank 1 on host {socket.gethostname()}" in error, f"the replica is not named: {error}")
    t.expect("rank 0" not in error and "rank 2" not in error, f"a sound replica is named: {error}")
    t.expect(steps_logged(t.folder / "drift")[-1] <= 6, "found later than at the next comparison")
    train(t, config, "unseen", "flip:parameter:rank1:step5", ["train.checksum_every=0"], ranks=3)


def main():
    t = Harness()
    t.write_data("data.h5")
    config = t.write_config("base.textproto", CONFIG)
    train(t, config, "whole")
    check_one_nan(t, config)
    check_roll_back(t, config)
    check_roll_back_past_a_stop(t, config)
    check_roll_back_of_layouts(t, config)
    check_stop(t, config)
    check_spikes(t, config)
    three = t.write_config("three.textproto", CONFIG.replace("global_batch: 8", "global_batch: 9"))
    check_drift(t, three)
    t.finish()


if __name__ == "__main__":
    main()
