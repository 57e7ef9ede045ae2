#!/usr/bin/env python3
"""Studies on a real Slurm (slurm/local_cluster.sh), by the commands users type: a sweep as one job array, of whose elements
one is preempted, one killed, one cancelled, one loses its node and one runs into its time limit; then a scaling study on one
and two nodes. Every run ends as if nobody had touched it, and the report of both studies shows every run."""
import concurrent.futures
import json
import os
import re

from harness import Harness, losses, steps_logged
from slurm_cluster import Cluster

STEPS = 6000  # two minutes of a slow start, some seconds of any other
MODEL = "model { depth: 1 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }"
SWEEP = """
name: "sizes" out: "studies/sizes"
run { model { channels: 1 side: 8 classes: 3 patch: 4 } data { path: "%(data)s" } train { global_batch: 8 }
      checkpoint { every_steps: 100 keep_last: 1 } log { every_steps: 1 tensorboard: false } }
grid { model { name: "A" depth: 1 width: 32 heads: 2 } model { name: "B" depth: 2 width: 32 heads: 2 } seed: [0, 1, 2] }
budget { images: %(images)d }
launch { ranks: 2 threads: 1 }
slurm { nodes: 1 tasks_per_node: 2 time: "30" signal_seconds: 5
        setup: "[[ -e started.$SLURM_ARRAY_TASK_ID ]] || export SHARDIT_FAULT=slow:update:rank0:step1"
        setup: "touch started.$SLURM_ARRAY_TASK_ID" }
"""
SCALING = """
name: "worlds" out: "studies/worlds" steps: 20 warmup_steps: 5
run { %(model)s data { path: "%(data)s" } train { global_batch: 8 } }
series { name: "strong" world: 1 world: 2 world: 4 }
launch { threads: 1 }
slurm { tasks_per_node: 2 time: "30" }
"""
RUNS = [f"{model}-p4-adaln_zero-s{seed}" for model in "AB" for seed in (0, 1, 2)]
POINTS = ["strong-w1", "strong-w2", "strong-w4"]


def preempted(cluster, element):
    """A job of a higher partition wants the node; Slurm warns by USR1."""
    node = cluster.show(element)["NodeList"]
    cluster.ask("sbatch", "--partition=urgent", "--exclusive", "--nodes=1", f"--nodelist={node}", "--output=/dev/null",
                "--wrap=sleep 1")


def killed(cluster, element):
    """Its script dies with it. Nobody is left to ask that it be queued again but the study's summary."""
    cluster.ask("scancel", "--signal=KILL", "--batch", element)


def cancelled(cluster, element):
    """Whoever cancels a run does not want it back before the study is submitted again."""
    cluster.ask("scancel", "--signal=KILL", element)


def lost_node(cluster, element):
    node = cluster.show(element)["NodeList"]
    cluster.command("lose", node)
    cluster.wait("the element on another node", lambda: cluster.show(element)["NodeList"] not in (node, "(null)", ""))
    cluster.command("start")


def limited(cluster, element):
    """Its limit is cut to what is nearly over."""
    cluster.ask("scontrol", "update", f"JobId={element}", "TimeLimit=1")
    cluster.wait("the limit", lambda: cluster.show(element)["Restarts"] != "0")
    cluster.ask("scontrol", "update", f"JobId={element}", "TimeLimit=30")


DISTURBED = [preempted, killed, cancelled, lost_node, limited]  # by index; the last run is left alone


def logs(folder):
    """What the jobs of a study said."""
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted((folder / "jobs").glob("*.log")))


def submit(t, command, config, *more):
    done = t.run(command, "--config", config, "--launcher", "slurm", *more)
    t.expect(done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def submit_sweep(t):
    """Submits what is unfinished: Slurm's name of each element, by index, and the summary job."""
    submitted = json.loads(submit(t, "sweep", "sizes.textproto", "--json"))
    return {index: f"{submitted['array_job']}_{index}" for index in submitted["tasks"]}, submitted["summary_job"]


def runs_by_name(t):
    runs = json.loads((t.folder / "studies" / "sizes" / "results.json").read_text())["runs"]
    return {run["name"]: run["state"] for run in runs}


def check_sweep(t, cluster):
    folder = t.folder / "studies" / "sizes"
    last = len(RUNS) - 1
    (t.folder / f"started.{last}").touch()
    elements, summary = submit_sweep(t)

    def disturb(index):
        name = f"the {DISTURBED[index].__name__} run"
        checkpoints = folder / "runs" / RUNS[index] / "checkpoints"
        cluster.wait(f"a checkpoint of {name}",
                     lambda: checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir()))
        DISTURBED[index](cluster, elements[index])

    with concurrent.futures.ThreadPoolExecutor(len(DISTURBED)) as threads:
        for done in [threads.submit(disturb, index) for index in range(len(DISTURBED))]:
            done.result()
    cluster.wait_for_end("the sweep's summary", summary)
    rescue = re.search(r"Submitted batch job (\d+)", (folder / "jobs" / f"{summary}_summary.log").read_text())
    t.expect(rescue, f"nobody came for the killed element\n{logs(folder)}")
    cluster.wait_for_end("the second summary", rescue.group(1))

    states = {name: "finished" for name in RUNS}
    stopped = DISTURBED.index(cancelled)
    t.expect(runs_by_name(t) == states | {RUNS[stopped]: "interrupted"}, f"sweep: {runs_by_name(t)}\n{logs(folder)}")
    for index, element in elements.items():
        restarts = int(cluster.show(element)["Restarts"])
        undisturbed = index in (stopped, last)
        t.expect((restarts == 0) == undisturbed, f"{RUNS[index]}: {restarts} restarts\n{logs(folder)}")

    elements, summary = submit_sweep(t)
    t.expect(list(elements) == [stopped], f"submitted again: {elements}")
    cluster.wait_for_end("the summary of the second submission", summary)
    t.expect(runs_by_name(t) == states, f"sweep, submitted again: {runs_by_name(t)}\n{logs(folder)}")
    t.expect(submit(t, "sweep", "sizes.textproto").find("submitted") < 0, "a finished sweep was submitted again")
    check_losses(t, folder)


def check_losses(t, folder):
    """Those of runs that nobody disturbed, each step's once."""
    for name in RUNS:
        done = t.run("train", "--config", folder / "configs" / f"{name}.textproto", "--out", name, ranks=2)
        t.expect(done.returncode == 0, f"undisturbed {name}: {done.stderr[-2000:]}")
        t.expect(steps_logged(folder / "runs" / name) == list(range(1, STEPS + 1)), f"{name}: not every step once")
        t.expect(losses(folder / "runs" / name) == losses(t.folder / name), f"{name}: the losses differ")


def check_scaling(t, cluster):
    said = submit(t, "scaling", "worlds.textproto")
    cluster.wait_for_end("the scaling's summary", re.search(r"summary (\d+)", said).group(1))
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
    with Cluster(t) as cluster:
        check_sweep(t, cluster)
        check_scaling(t, cluster)
        check_report(t)
    t.finish()


if __name__ == "__main__":
    main()
