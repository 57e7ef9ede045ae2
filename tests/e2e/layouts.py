#!/usr/bin/env python3
"""The same run on other layouts is the same run: losses on ranks that are processes, cut over data, tensor and pipeline
axes, with ZeRO, sequence parallelism, accumulation, recompute and other thread counts, agree to 1e-5 over 20 steps; the
same layout twice agrees bit for bit, and so do all layouts of deterministic mode; a trace shows reductions under backward.
SHARDIT_LONG_TESTS=1 trains every layout with every design."""
import json
import os

from harness import Harness, losses, rows_logged

CONFIG = """
model { depth: 4 width: 48 heads: 4 patch: 2 channels: 2 side: 8 classes: 3 class_dropout: 0.3 %s }
data { path: "data.h5" flip: true }
optimizer { learning_rate: 1e-3 clip_norm: 0.5 warmup_steps: 5 weight_decay: 0.01 }
ema { decay: 0.9 warmup: true }
train { steps: 20 global_batch: 8 seed: 3 }
parallel { bucket_mib: 1 }
checkpoint { every_steps: 0 }
log { every_steps: 1 tensorboard: false }
"""
DESIGNS = ["ADALN_ZERO", "ADALN", "CROSS_ATTENTION", "IN_CONTEXT"]
# ranks (0: without the launcher), extra settings
LAYOUTS = [
    (0, ["train.threads=1"]),
    (0, ["train.threads=2"]),
    (0, ["train.threads=3", "train.micro_batch=2"]),
    (0, ["parallel.recompute=FULL"]),
    (0, ["parallel.recompute=SELECTIVE", "train.micro_batch=4"]),
    (1, []),
    (2, []),
    (2, ["train.micro_batch=2", "parallel.recompute=FULL"]),
    (4, []),
    (4, ["train.micro_batch=1"]),
]
# ranks, settings by short name (SHORT): each with one design in the plain run
SHARDED = [
    (2, "tp=2"),
    (2, "tp=2 sp"),
    (2, "pp=2 schedule=GPIPE"),
    (2, "pp=2 schedule=ZERO_BUBBLE_H1"),
    (2, "zero=2 micro=2"),
    (2, "zero=3 recompute=FULL"),
    (3, "pp=3 micro=2"),
    (4, "tp=2 zero=1"),
    (4, "tp=2 pp=2 schedule=INTERLEAVED stages=2 sp"),
    (4, "pp=2 zero=2 recompute=SELECTIVE"),
    (4, "tp=4 sp recompute=FULL"),
    (8, "tp=2 pp=2 zero=3 sp schedule=ZERO_BUBBLE_H1"),
]
SHORT = {"tp": "parallel.tp", "pp": "parallel.pp", "zero": "parallel.zero_stage", "stages": "parallel.virtual_stages",
         "schedule": "parallel.schedule", "recompute": "parallel.recompute", "micro": "train.micro_batch"}
# Of deterministic mode, where every layout has the bits of the first.
DETERMINISTIC = [(0, ""), (2, "zero=1"), (4, "zero=3"), (4, "pp=2 zero=2"), (2, "pp=2 schedule=INTERLEAVED stages=2"),
                 (8, "")]
LONG = os.environ.get("SHARDIT_LONG_TESTS") == "1"


def spelled_out(text):
    """Settings from their short names."""
    words = [word.partition("=") for word in text.split()]
    return ["parallel.sequence_parallel=true" if word == "sp" else f"{SHORT[word]}={value}" for word, _, value in words]


def train(t, config, out, ranks, settings, extra=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", config, "--out", out, *sets, *extra, ranks=ranks)
    t.expect(done.returncode == 0, f"{out}: exit code {done.returncode}\n{done.stderr}")
    return losses(t.folder / out)


def check_trace(t, config):
    # Buckets of 1 MiB need a model of several.
    train(t, config, "traced", 2, ["train.steps=4", "model.width=192", "model.depth=6"],
          ["--trace", "traced/trace.json"])
    trace = json.loads((t.folder / "traced/trace.json").read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for rank in range(2):
        overlapped = 0
        for step in {event["args"]["step"] for event in spans}:
            mine = [event for event in spans if event["pid"] == rank and event["args"]["step"] == step]
            end = max(event["ts"] + event["dur"] for event in mine if event["cat"] == "backward")
            overlapped += sum(event["cat"] == "communication" and event["ts"] < end for event in mine)
        t.expect(overlapped, f"rank {rank}: no reduction started before backward ended")
    rows = rows_logged(t.folder / "traced")
    t.expect(all(row["overlapped_bytes"] <= row["bytes_sent"]["dp"] for row in rows) and
             any(row["overlapped_bytes"] for row in rows), "overlapped bytes not reported")


def check_sharded(t):
    for index, (ranks, text) in enumerate(SHARDED):
        for design in DESIGNS if LONG else [DESIGNS[index % len(DESIGNS)]]:
            out = f"{design}_sharded_{index}"
            got = train(t, t.folder / f"{design}.textproto", out, ranks, spelled_out(text))
            reference = losses(t.folder / f"{design}_reference")
            error = max(abs(a - b) / abs(b) for a, b in zip(got, reference))
            t.expect(len(got) == 20 and error <= 1e-5, f"{design} on {ranks} ranks {text}: relative error {error}")
            sent = rows_logged(t.folder / out)[-1]["bytes_sent"]
            for axis in ("tp", "pp"):
                t.expect((sent[axis] > 0) == (f"{axis}=" in text), f"{design} {text}: sent {sent}")


def check_deterministic(t, config):
    for index, (ranks, text) in enumerate(DETERMINISTIC if LONG else DETERMINISTIC[:-1]):
        got = train(t, config, f"deterministic_{index}", ranks, ["train.deterministic=true", *spelled_out(text)])
        t.expect(got == losses(t.folder / "deterministic_0"), f"deterministic on {ranks} ranks {text}: losses differ")
        done = t.run("checkpoint", "diff", "deterministic_0", f"deterministic_{index}")
        t.expect(done.returncode == 0, f"deterministic on {ranks} ranks {text}: {done.stdout}{done.stderr}")


def main():
    t = Harness()
    t.write_data("data.h5", count=40, channels=2)
    for design in DESIGNS:
        config = t.write_config(f"{design}.textproto", CONFIG % f"conditioning: {design}")
        reference = train(t, config, f"{design}_reference", 0, ["train.threads=1"])
        t.expect(len(reference) == 20, f"{design}: expected 20 rows, got {len(reference)}")
        for index, (ranks, settings) in enumerate(LAYOUTS if design == "ADALN_ZERO" else LAYOUTS[6:9]):
            got = train(t, config, f"{design}_{index}", ranks, settings)
            error = max(abs(a - b) / abs(b) for a, b in zip(got, reference))
            t.expect(len(got) == 20 and error <= 1e-5, f"{design} on {ranks} ranks {settings}: relative error {error}")
            if ranks == 2:
                again = train(t, config, f"{design}_{index}_again", ranks, settings)
                t.expect(again == got, f"{design} on {ranks} ranks {settings}: two runs differ")
    check_sharded(t)
    check_deterministic(t, t.folder / "ADALN_ZERO.textproto")
    check_trace(t, t.folder / "ADALN_ZERO.textproto")
    t.finish()


if __name__ == "__main__":
    main()
