#!/usr/bin/env python3
"""A scaling study end to end: the prediction, the points, the figures beside what metrics.jsonl says, a stop in the middle, a
point that cannot run, and work that is not repeated."""
import csv
import json
import os
import signal
import statistics
import subprocess
import time

from harness import Harness, rows_logged

STUDY = """
name: "small" out: "study" steps: %d warmup_steps: 2
run {
  model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
  data { path: "data.h5" }
  train { global_batch: 8 }
}
series { name: "strong" world: 1 world: 2 }
series { name: "weak" mode: WEAK world: 1 world: 2 }
series { name: "tp" world: 2 parallel { tp: 2 } }
launch { threads: 1 command: "%s -n {ranks}" }
"""
POINTS = ["strong-w1", "strong-w2", "weak-w1", "weak-w2", "tp-w2"]


def scaling(t, *arguments, code=0, timeout=300):
    done = t.run("scaling", *arguments, timeout=timeout)
    t.expect(done.returncode == code, f"scaling {arguments}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    return done


def check_dry_run(t, config):
    before = t.files()
    text = scaling(t, "--config", config, "--dry-run").stdout
    t.expect(all(point in text for point in POINTS) and "rank hours" in text, f"dry run: {text}")
    plans = json.loads(scaling(t, "--config", config, "--dry-run", "--json").stdout)
    t.expect([plan["name"] for plan in plans] == POINTS, "dry run: other points")
    t.expect(t.files() == before, "dry run: it wrote files")


def check_figures(t, steps):
    study = json.loads((t.folder / "study" / "scaling.json").read_text())
    t.expect([point["name"] for point in study["points"]] == POINTS, "scaling.json: other points")
    by_name = {point["name"]: point for point in study["points"]}
    for name, point in by_name.items():
        folder = t.folder / "study" / "points" / name
        rows = rows_logged(folder)
        t.expect([row["step"] for row in rows] == list(range(1, steps + 3)), f"{name}: rows {len(rows)}")
        timed = [row for row in rows if row["step"] > 2]
        median = statistics.median(row["step_ms"] for row in timed)
        t.expect(point["state"] == "finished", f"{name}: {point}")
        t.expect(point["step_ms"] == median, f"{name}: {point['step_ms']} is not the median {median}")
        t.expect(point["step_ms_interval"][0] <= median <= point["step_ms_interval"][1], f"{name}: interval")
        t.expect(abs(point["images_per_s"] - 1e3 * point["global_batch"] / median) < 1e-6 * point["images_per_s"], name)
        sent, planned = point["bytes_sent"], point["planned"]
        t.expect(planned["step_ms"] > 0, f"{name}: nothing planned")
        for axis in ("dp", "tp", "pp"):
            t.expect(sent[axis] == planned["bytes_sent"][axis], f"{name}: {axis} sent {sent}, planned {planned}")
        t.expect(not (folder / "checkpoints").exists(), f"{name}: a checkpoint stayed behind")
    t.expect(by_name["strong-w2"]["global_batch"] == 8 and by_name["weak-w2"]["global_batch"] == 16, "batches")
    t.expect(by_name["tp-w2"]["tp"] == 2 and by_name["tp-w2"]["dp"] == 1, "layout of tp-w2")
    one, two = by_name["weak-w1"], by_name["weak-w2"]
    efficiency = two["images_per_s"] / one["images_per_s"] / 2
    t.expect(abs(two["efficiency"] - efficiency) < 1e-9 and one["efficiency"] == 1, "weak efficiency")
    rows = list(csv.DictReader((t.folder / "study" / "scaling.csv").open()))
    t.expect([row["name"] for row in rows] == POINTS, "scaling.csv: other points")
    t.expect(float(rows[1]["step_ms"]) == by_name["strong-w2"]["step_ms"], "scaling.csv: other figures")


def check_stop(t, config, steps):
    """Stopped in the middle it leaves with 75; run again it goes on, and a third time it finds nothing to do."""
    process = subprocess.Popen([t.program, "scaling", "--config", str(config)], cwd=t.folder, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (t.folder / "study" / "points" / "strong-w2" / "metrics.jsonl").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    t.expect(process.returncode == 75, f"stopped: exit code {process.returncode}\n{errors}")
    partial = json.loads((t.folder / "study" / "scaling.json").read_text())
    t.expect([p["state"] for p in partial["points"]][:1] == ["finished"], f"stopped: {partial['points'][0]}")
    t.expect(partial["points"][4]["state"] == "missing" and partial["points"][4]["step_ms"] is None, "stopped: tp-w2")
    table = scaling(t, "--config", config).stdout
    t.expect(all(point in table for point in POINTS), f"table: {table}")
    check_figures(t, steps)
    metrics = t.folder / "study" / "points" / "tp-w2" / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    scaling(t, "--config", config)
    t.expect(metrics.stat().st_mtime_ns == before, "a finished point ran again")


def check_failures(t, text):
    """A point that cannot run is a row like the others; what cannot be a study is refused before anything runs."""
    (t.folder / "gone.textproto").write_text(text.replace('"data.h5"', '"nowhere.h5"').replace('"study"', '"gone"'))
    failed = scaling(t, "--config", "gone.textproto", "--json", code=79)
    points = json.loads(failed.stdout)["points"]
    t.expect(len(points) == len(POINTS) and all(point["state"] == "failed" for point in points), "failed points")
    t.expect(all("nowhere.h5" in point["message"] for point in points), f"failed: {points[0]['message']}")
    for change, expected in (('world: 1 world: 2 }', "tp"), ("", "series")):
        bad = text.replace('series { name: "tp" world: 2', 'series { name: "tp" world: 3')
        bad = bad if change else "\n".join(line for line in text.splitlines() if not line.startswith("series"))
        (t.folder / "bad.textproto").write_text(bad)
        refused = scaling(t, "--config", "bad.textproto", code=64)
        t.expect(expected in refused.stderr and refused.stderr.count("\n") == 1, f"refused: {refused.stderr}")
    refused = scaling(t, "--config", "gone.textproto", "--launcher", "slurm", code=64)
    t.expect("slurm.tasks_per_node" in refused.stderr and refused.stderr.count("\n") == 1, f"refused: {refused.stderr}")
    # Files that say odd things are a point without figures.
    odd = t.folder / "gone" / "points" / "strong-w1"
    for name, content in (("metrics.jsonl", '{"step": 1, "bytes_sent": null, "peak_bytes": {}}'), ("plan.json", '{"step": 1}'),
                          ("plan.json", '{"step": {"step_ms": []}, "bytes_sent": {"dp": "x"}}')):
        (odd / name).write_text(content + "\n")
        points = json.loads(scaling(t, "--config", "gone.textproto", "--summary", "--json").stdout)["points"]
        t.expect(points[0]["step_ms"] is None, f"{content}: {points[0]}")
        scaling(t, "--config", "gone.textproto", "--summary")
    # Another study's points are not taken for this one's.
    (t.folder / "other.textproto").write_text(text.replace("heads: 2", "heads: 4"))
    other = scaling(t, "--config", "other.textproto", "--json", code=79)
    t.expect("other settings" in json.loads(other.stdout)["points"][0]["message"], "another study's points")


def main():
    t = Harness()
    steps = 40
    t.write_data("data.h5", count=48)
    text = STUDY % (steps, " ".join(t.mpirun))
    config = t.write_config("scaling.textproto", text)
    os.environ.pop("SLURM_JOB_ID", None)
    check_dry_run(t, config)
    check_stop(t, config, steps)
    check_failures(t, text)
    t.finish()


if __name__ == "__main__":
    main()
