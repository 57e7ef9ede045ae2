#!/usr/bin/env python3
"""The same run on other layouts is the same run: losses on 1, 2 and 4 ranks, with accumulation, recompute and other thread
counts, agree to 1e-5 over 20 steps; the same layout twice agrees bit for bit; a trace shows reductions under backward."""
import json

from harness import Harness, losses

CONFIG = """
model { depth: 3 width: 48 heads: 4 patch: 2 channels: 2 side: 8 classes: 3 class_dropout: 0.3 %s }
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


def train(t, config, out, ranks, settings, extra=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", config, "--out", out, *sets, *extra, ranks=ranks)
    t.expect(done.returncode == 0, f"{out}: exit code {done.returncode}\n{done.stderr}")
    return losses(t.folder / out)


def check_trace(t, config):
    # Buckets of 1 MiB need a model of several.
    train(t, config, "traced", 2, ["train.steps=4", "model.width=192", "model.depth=6"], ["--trace", "traced/trace"])
    for rank in range(2):
        events = json.loads((t.folder / f"traced/trace.{rank}.json").read_text())["traceEvents"]
        spans = [event for event in events if event["ph"] == "X"]
        overlapped = 0
        for step in {event["args"]["step"] for event in spans}:
            mine = [event for event in spans if event["args"]["step"] == step]
            end = max(event["ts"] + event["dur"] for event in mine if event["name"] == "backward")
            overlapped += sum(1 for event in mine if event["name"] == "bucket" and event["ts"] < end)
        t.expect(overlapped, f"rank {rank}: no reduction started before backward ended")
    rows = [json.loads(line) for line in (t.folder / "traced/metrics.jsonl").read_text().splitlines()]
    t.expect(all(row["overlapped_bytes"] <= row["bytes_sent"]["dp"] for row in rows) and
             any(row["overlapped_bytes"] for row in rows), "overlapped bytes not reported")


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
    check_trace(t, t.folder / "ADALN_ZERO.textproto")
    t.finish()


if __name__ == "__main__":
    main()
