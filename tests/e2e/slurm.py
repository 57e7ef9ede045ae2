#!/usr/bin/env python3
"""Training under a real Slurm (slurm/local_cluster.sh: munge, a controller, four nodes on this machine). Jobs are warned,
preempted, run into their time limit, lose a rank or a whole node; each comes back by itself, logs every step once, and ends
with the bits of a run that nobody disturbed. A cancelled job and one that cannot start stay away. A job's first start is
slow, 20 ms a step and more: however fast the machine, it is not over before it is disturbed."""
import concurrent.futures
import os
import pathlib
import re
import signal

from harness import Harness, checkpoint_bytes, losses, steps_logged
from slurm_cluster import PATIENCE, Cluster

CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "%s" }
train { steps: %d global_batch: 8 threads: 1 }
checkpoint { every_steps: 100 keep_last: 1 }
log { every_steps: 1 tensorboard: false }
"""
STEPS = 6000  # two minutes of a slow start, some seconds of any other
LAUNCH = """#!/bin/bash
[[ -e $SLURM_JOB_NAME.started ]] || export SHARDIT_FAULT=slow:update:rank0:step1
touch "$SLURM_JOB_NAME.started"
exec mpirun "$@"
"""


def warned(cluster, name):
    """The warning before a time limit or a maintenance, here sent by hand. How the first start began is not repeated."""
    job = cluster.submit(name, more=["--resume", "never"])
    cluster.wait_for_checkpoint(name, job)
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    return job, "stopped by SIGUSR1"


def preempted(cluster, name):
    """A job of two nodes, preempted by one of a higher partition that wants them."""
    job = cluster.submit(name, "--nodes=2", "--ntasks-per-node=1", "--exclusive")
    cluster.wait_for_checkpoint(name, job)
    nodes = cluster.show(job)["NodeList"]
    cluster.ask("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", f"--nodelist={nodes}", "--output=/dev/null",
                "--wrap=sleep 1")
    return job, "stopped by (SIGUSR1|a signal)"  # one of both nodes may hear of it first


def limited(cluster, name):
    """No warning is asked for: the trainer itself stops in time for the limit."""
    return cluster.submit(name, "--time=1", "--signal=B:CONT@1"), "the end of the job"


def lost_rank(cluster, name):
    """A rank is killed, as the kernel does where memory runs out."""
    job = cluster.submit(name)
    cluster.wait_for_checkpoint(name, job)
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == cluster.t.program.encode() and name.encode() in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
            break
    return job, "left with 137"


def killed(cluster, name):
    """The job's script dies with its ranks: nobody can ask for the job again but its owner."""
    job = cluster.submit(name)
    cluster.wait_for_checkpoint(name, job)
    cluster.ask("scancel", "--signal=KILL", "--batch", job)
    cluster.wait_for_end(name, job)
    cluster.ask("scontrol", "requeue", job)
    return job, ""


def lost_node(cluster, name):
    """A node dies with all that runs on it. The job goes on elsewhere."""
    job = cluster.submit(name)
    cluster.wait_for_checkpoint(name, job)
    node = cluster.show(job)["NodeList"]
    cluster.command("lose", node)
    cluster.wait(f"{name} on another node", lambda: cluster.show(job)["NodeList"] not in (node, "(null)", ""))
    cluster.command("start")
    return job, ""


def chained(cluster, name):
    """Where requeueing is forbidden: a successor goes on."""
    job = cluster.submit(name, "--no-requeue", "--export=ALL,SHARDIT_CHAIN=1", more=["--resume=never"])
    cluster.wait_for_checkpoint(name, job)
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    cluster.wait_for_end(name, job)
    successor = re.search(r"Submitted batch job (\d+)", cluster.log(name))
    if not successor:
        raise RuntimeError(f"{name}: no successor\n{cluster.log(name)[-2000:]}")
    return successor.group(1), "stopped by SIGUSR1"


def cancelled(cluster, name):
    """Whoever cancels a job does not want it back."""
    job = cluster.submit(name)
    cluster.wait_for_checkpoint(name, job)
    cluster.ask("scancel", job)
    return job, "CANCELLED"


def hopeless(cluster, name):
    """Ranks that never start: some restarts, not endless ones."""
    launch = cluster.t.write_script("lost.sh", "#!/bin/bash\nexit 1\n")
    return cluster.submit(name, f"--export=ALL,SHARDIT_LAUNCH={launch}"), "not starting again"


def misconfigured(cluster, name):
    return cluster.submit(name, more=["--set", "model.width=33"]), "left with 64"


DISTURBED = [warned, preempted, limited, lost_rank, killed, lost_node, chained]
# How the last job of the other cases ends, and after how many restarts. On a busy machine a disturbed one may need several.
ENDS = {chained: ("COMPLETED", 0), cancelled: ("CANCELLED", 0), hopeless: ("FAILED", 3), misconfigured: ("FAILED", 0)}


def follow(cluster, case):
    """Runs a case to its end; its failures."""
    name = case.__name__
    try:
        job, said = case(cluster, name)
        shown = cluster.wait_for_end(name, job)
    except RuntimeError as error:
        return [f"{name}: {error}"]
    failures = []
    log = cluster.log(name)
    state, restarts = shown["JobState"], int(shown["Restarts"])
    good = (state, restarts) == ENDS[case] if case in ENDS else state == "COMPLETED" and restarts > 0
    if not good:
        failures.append(f"{name}: {state} after {restarts} restarts\n{log[-3000:]}")
    if not re.search(said, log):
        failures.append(f"{name}: expected '{said}' in the log\n{log[-3000:]}")
    return failures


def check_training(t, cluster):
    cases = [*DISTURBED, *(case for case in ENDS if case not in DISTURBED)]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as threads:
        running = [threads.submit(follow, cluster, case) for case in cases]
        done = t.run("train", "--config", "config.textproto", "--out", "undisturbed", ranks=2, timeout=PATIENCE)
        t.expect(done.returncode == 0, f"undisturbed: exit code {done.returncode}\n{done.stderr[-2000:]}")
    for case in running:
        t.expect(not case.result(), "\n".join(case.result()))
    expected = losses(t.folder / "undisturbed")
    for case in DISTURBED:
        name = case.__name__
        run = t.folder / name
        t.expect(steps_logged(run) == list(range(1, STEPS + 1)), f"{name}: not every step once")
        t.expect(losses(run) == expected, f"{name}: the losses differ")
        t.expect(checkpoint_bytes(run, STEPS) == checkpoint_bytes(t.folder / "undisturbed", STEPS) != {},
                 f"{name}: the final states differ")


def main():
    t = Harness()
    with Cluster(t) as cluster:
        os.environ["SHARDIT"] = t.program
        os.environ["SHARDIT_LAUNCH"] = str(t.write_script("launch.sh", LAUNCH))
        t.write_config("config.textproto", CONFIG % (t.write_data("data.h5"), STEPS))
        check_training(t, cluster)
    t.finish()


if __name__ == "__main__":
    main()
