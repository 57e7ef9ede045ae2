#!/usr/bin/env python3
"""Studies on a real Slurm (slurm/local_cluster.sh): a sweep as one job array, of which an element is told to stop, and a
scaling study on one and two nodes. The array's other elements never notice, the summary jobs collect everything, and the
report of both shows every run."""
import concurrent.futures
import json
import os
import re

from harness import Harness, losses, steps_logged
from slurm_cluster import Cluster

STEPS = 5000
MODEL = "model { depth: 1 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }"
SWEEP = """
name: "sizes" out: "studies/sizes"
run { model { channels: 1 side: 8 classes: 3 patch: 4 } data { path: "%(data)s" } train { global_batch: 8 }
      checkpoint { every_steps: 500 keep_last: 1 } log { every_steps: 1 tensorboard: false } }
grid { model { name: "A" depth: 1 width: 32 heads: 2 } model { name: "B" depth: 2 width: 32 heads: 2 } }
budget { images: %(images)d }
launch { ranks: 2 threads: 1 }
slurm { nodes: 1 tasks_per_node: 2 time: "30" signal_seconds: 60 }
"""
SCALING = """
name: "worlds" out: "studies/worlds" steps: 20 warmup_steps: 5
run { %(model)s data { path: "%(data)s" } train { global_batch: 8 } }
series { name: "strong" world: 1 world: 2 world: 4 }
launch { threads: 1 }
slurm { tasks_per_node: 2 time: "30" }
"""
RUNS = ["A-p4-adaln_zero-s0", "B-p4-adaln_zero-s0"]
POINTS = ["strong-w1", "strong-w2", "strong-w4"]


def logs(folder):
    """What the jobs of a study said."""
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted((folder / "jobs").glob("*.log")))


def submit(t, command, config, *more):
    done = t.run(command, "--config", config, "--launcher", "slurm", *more)
    t.expect(done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def follow_sweep(t, cluster):
    """Submits the sweep, disturbs its first element, waits for its summary; the restarts of both elements."""
    submitted = json.loads(submit(t, "sweep", "sizes.textproto", "--json"))
    elements = [f"{submitted['array_job']}_{index}" for index in submitted["tasks"]]
    first = t.folder / "studies" / "sizes" / "runs" / RUNS[0] / "checkpoints"
    cluster.wait("a checkpoint of the sweep", lambda: first.is_dir() and any(p.name.isdigit() for p in first.iterdir()))
    cluster.ask("scancel", "--signal=USR1", "--batch", elements[0])
    cluster.wait_for_end("the sweep's summary", submitted["summary_job"])
    return [cluster.show(element)["Restarts"] for element in elements]


def follow_scaling(t, cluster):
    said = submit(t, "scaling", "worlds.textproto")
    summary = re.search(r"summary (\d+)", said)
    cluster.wait_for_end("the scaling's summary", summary.group(1))


def check_sweep(t, restarts):
    folder = t.folder / "studies" / "sizes"
    t.expect(restarts == ["1", "0"], f"restarts of the elements: {restarts}\n{logs(folder)}")
    runs = {run["name"]: run for run in json.loads((folder / "results.json").read_text())["runs"]}
    t.expect(sorted(runs) == RUNS and all(run["state"] == "finished" for run in runs.values()),
             f"sweep: {runs}\n{logs(folder)}")
    done = t.run("train", "--config", folder / "configs" / f"{RUNS[0]}.textproto", "--out", "undisturbed", ranks=2)
    t.expect(done.returncode == 0, f"undisturbed: {done.stderr[-2000:]}")
    run = folder / "runs" / RUNS[0]
    t.expect(steps_logged(run) == list(range(1, STEPS + 1)), "sweep: not every step once")
    t.expect(losses(run) == losses(t.folder / "undisturbed"), "sweep: the losses differ")
    t.expect(submit(t, "sweep", "sizes.textproto").find("submitted") < 0, "a finished sweep was submitted again")


def check_scaling(t):
    folder = t.folder / "studies" / "worlds"
    points = {point["name"]: point for point in json.loads((folder / "scaling.json").read_text())["points"]}
    t.expect(sorted(points) == POINTS and all(point["state"] == "finished" for point in points.values()),
             f"scaling: {points}\n{logs(folder)}")


def check_report(t):
    done = t.run("report", "studies")
    t.expect(done.returncode == 0, f"report: {done.stderr}")
    page = (t.folder / "studies" / "report" / "report.html").read_text()
    for name in (*RUNS, *POINTS):
        t.expect(name in page, f"{name} is not in the report")


def main():
    t = Harness()
    values = {"model": MODEL, "data": t.write_data("data.h5"), "images": 8 * STEPS}
    t.write_config("sizes.textproto", SWEEP % values)
    t.write_config("worlds.textproto", SCALING % values)
    os.chdir(t.folder)
    with Cluster(t) as cluster, concurrent.futures.ThreadPoolExecutor(2) as threads:
        sweep, scaling = threads.submit(follow_sweep, t, cluster), threads.submit(follow_scaling, t, cluster)
        restarts = sweep.result()
        scaling.result()
        check_sweep(t, restarts)
        check_scaling(t)
        check_report(t)
    t.finish()


if __name__ == "__main__":
    main()
