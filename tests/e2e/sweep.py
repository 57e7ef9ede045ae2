#!/usr/bin/env python3
"""A study from one file: run, stopped, killed, repeated, with damaged checkpoints and runs that fail; what is done is
not done again, and every run shows in the results. Scores come from a stand-in behind the launch line."""
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from harness import Harness, committed, losses, steps_logged, wait_for

# Started as the launch line of every command: runs what is asked for, with the fault that a file beside it plans.
LAUNCHER = r'''
import hashlib, json, os, pathlib, resource, sys
here = pathlib.Path(__file__).parent
words = sys.argv[2:]
flags = dict(zip(words[2::2], words[3::2]))
run = pathlib.Path(flags["--out"]).name if words[1] == "train" else pathlib.Path(flags["--samples"]).parent.parent.name
with open(here / "calls", "a") as calls:
    print(words[1], run, file=calls)
plan = here / f"plan_{run}"
planned = plan.read_text() if plan.exists() and words[1] == "train" else ""
if planned == "always fails":
    print('shardit: this run always fails, "really"', file=sys.stderr)
    sys.exit(65)
if planned:
    plan.unlink()
if planned == "disk full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
elif planned:
    os.environ["SHARDIT_FAULT"] = planned
if words[1] == "train":
    os.execv(words[0], words)
checkpoint = pathlib.Path(flags["--samples"])
digest = lambda path: hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
scores = {"fd": 10.0 + len(run), "fd_interval": [9.0, 30.0], "n": int(flags["--num"]), "n_reference": 3,
          "bootstrap": int(flags["--bootstrap"]),
          "extractor": {"path": flags["--extractor"], "sha256": digest(flags["--extractor"]),
                        "architecture": "stand-in", "resize": "none"},
          "samples": {"path": str(checkpoint), "sha256": digest(checkpoint / "MANIFEST"), "step": int(checkpoint.name),
                      "sampler": flags["--sampler"], "steps": int(flags["--steps"]),
                      "cfg_scale": float(flags["--cfg-scale"]), "cfg_channels": int(flags["--cfg-channels"]),
                      "seed": int(flags["--seed"]), "weights": flags["--weights"]},
          "reference": {"path": flags["--reference"]}, "seconds": 0.5}
pathlib.Path(flags["--out"]).write_text(json.dumps(scores))
pathlib.Path(flags["--grid"]).write_bytes(b"png")
'''

STUDY = """
name: "tiny"
out: "%(out)s"
run {
  model { depth: 1 channels: 1 side: 8 classes: 3 patch: 4 }
  data { path: "%(data)s" }
  train { global_batch: 8 }
  checkpoint { every_steps: 5 keep_last: 2 }
  log { every_steps: 1 tensorboard: false }
}
grid {
  model { name: "A" width: 32 heads: 2 }
  model { name: "B" width: 48 heads: 2 }
}
budget { images: 160 }
evaluation {
  at_steps: [10, 20] samples: 6 sampler: DDIM steps: 5 bootstrap: 20
  extractor: "extractor.safetensors" reference: "reference.npz"
}
launch { command: "%(python)s launcher.py {ranks}" max_restarts: 2 }
"""
A, B = "A-p4-adaln_zero-s0", "B-p4-adaln_zero-s0"


def study(t, out, text=STUDY):
    """The text of a study in a folder of its own."""
    return t.write_config(f"{out}.textproto", text % {"out": out, "data": t.data, "python": sys.executable})


def sweep(t, config, *arguments, code=0):
    done = t.run("sweep", "--config", config, *arguments)
    t.expect(done.returncode == code, f"{config.stem} {arguments}: exit {done.returncode}, expected {code}\n{done.stderr}")
    return done


def results(t, out):
    document = json.loads((t.folder / out / "results.json").read_text())
    return {run["name"]: run for run in document["runs"]}, document


def calls(t):
    path = t.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def check_dry_run(t):
    config = study(t, "dry")
    before = t.files()
    text = sweep(t, config, "--dry-run").stdout
    t.expect(A in text and B in text and "node hours" in text, f"dry run says {text}")
    plan = json.loads(sweep(t, config, "--dry-run", "--json").stdout)
    t.expect([run["steps"] for run in plan["runs"]] == [20, 20], f"steps of the budget: {plan}")
    for key in ("parameters", "gmacs_forward", "train_eflop", "bytes_per_rank", "train_hours", "sampling_hours"):
        t.expect(all(run[key] > 0 for run in plan["runs"]), f"{key}: {plan['runs']}")
    t.expect(plan["node_hours"] > 0 and plan["node_hours_left"] == plan["node_hours"], f"node hours: {plan}")
    t.expect(t.files() == before, "a dry run wrote files")


def check_bad_configs(t):
    cases = [("budget {", "bugdet {", "budget"), ('name: "B"', 'name: "A"', "both called"),
             ('name: "B"', 'name: "../B"', "grid.model.name"), ('out: "%(out)s"', "", "out"),
             ("images: 160", "images: 0", "budget.images"), ("heads: 2 }", "heads: 5 }", "heads"),
             ("at_steps: [10, 20]", "at_steps: 21", "last step"), ("at_steps: [10, 20]", "at_steps: 7", "every_steps"),
             ('"reference.npz"', '"no_reference.npz"', "no_reference.npz"), ('name: "tiny"', 'name: "a b"', "name"),
             ("samples: 6", "samples: 6 metrics: [\"fud\"]", "metrics"),
             ("channels: 1", "channels: 4", "expected 1 or 3"), ("max_restarts: 2", "ranks: 3", "global_batch")]
    for old, new, named in cases:
        config = study(t, "bad", STUDY.replace(old, new))
        before = t.files()
        done = sweep(t, config, code=64)
        t.expect(named in done.stderr and done.stderr.count("\n") == 1, f"{new}: {done.stderr}")
        t.expect(t.files() == before, f"{new}: files were written")
    sweep(t, study(t, "bad", STUDY.replace("channels: 1", "channels: 4")), "--dry-run", code=64)
    config = study(t, "bad")
    sweep(t, config, "--task", "2", code=64)
    sweep(t, config, "--set", "grid.patch=4", code=64)
    sweep(t, t.folder / "missing.textproto", code=64)


def check_whole(t):
    config = study(t, "whole")
    document = json.loads(sweep(t, config, "--json").stdout)
    runs, stored = results(t, "whole")
    t.expect(document == stored, "what is printed is what is stored")
    for name in (A, B):
        run = runs[name]
        t.expect(run["state"] == "finished" and run["attempts"] == 3 and run["steps_done"] == 20, f"{run}")
        t.expect([e["step"] for e in run["evaluations"]] == [10, 20], f"{name}: {run['evaluations']}")
        t.expect(run["evaluations"][1]["fd_interval"] == [9.0, 30.0] and run["train_seconds"] > 0, f"{run}")
        t.expect((t.folder / "whole" / run["evaluations"][1]["grid"]).exists(), "the grid is where it is said to be")
        t.expect(run["final_loss"] == losses(t.folder / "whole" / run["folder"])[-1], f"{name}: final loss")
    t.expect(stored["settings"]["extractor"]["architecture"] == "stand-in", f"{stored['settings']}")
    with open(t.folder / "whole" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    t.expect([(row["name"], row["evaluated_step"]) for row in rows] == [(A, "10"), (A, "20"), (B, "10"), (B, "20")],
             f"rows of the table: {rows}")
    t.expect(float(rows[3]["fd_low"]) == 9.0, f"{rows[3]}")


def check_repetition(t):
    """Right after check_whole."""
    config, before = t.folder / "whole.textproto", calls(t)
    times = {path: path.stat().st_mtime_ns for path in (t.folder / "whole" / "runs").rglob("*") if path.is_file()}
    t.expect("finished" in sweep(t, config).stdout, "the table of a finished study")
    t.expect(calls(t) == before, "finished work was done again")
    t.expect(all(path.stat().st_mtime_ns == at for path, at in times.items() if path.name != "task.lock"),
             "files of finished runs were written again")
    # Adopted: the same runs in a folder that no sweep ever wrote to.
    subprocess.run(["cp", "-r", "whole", "adopted"], cwd=t.folder, check=True)
    for name in (A, B):
        (t.folder / "adopted" / "runs" / name / "task.json").unlink()
    (t.folder / "adopted" / "sweep.textproto").unlink()
    sweep(t, study(t, "adopted"))
    t.expect(calls(t) == before, "adopted runs were trained again")
    t.expect(results(t, "adopted")[0][A]["state"] == "finished", "adopted runs are finished")
    # Another way of scoring: scored anew, not trained anew.
    sweep(t, study(t, "adopted"), "--set", "evaluation.seed=1")
    t.expect(calls(t)[len(before):] == [f"evaluate {A}"] * 2 + [f"evaluate {B}"] * 2, f"{calls(t)[len(before):]}")
    # Another study's folder, and another run's.
    sweep(t, study(t, "adopted", STUDY.replace('"tiny"', '"other"')), code=64)
    done = sweep(t, study(t, "adopted"), "--set", "run.optimizer.learning_rate=1e-2", code=79)
    t.expect("holds another run" in done.stderr and "learning_rate" in done.stderr, done.stderr)


def start(t, config, *arguments):
    return subprocess.Popen([t.program, "sweep", "--config", str(config), *arguments], cwd=t.folder,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def check_stops(t):
    long = STUDY.replace("images: 160", "images: 8000").replace("[10, 20]", "1000")
    long = long.replace("every_steps: 5", "every_steps: 50")
    config = study(t, "stopped", long)
    run, plan = t.folder / "stopped" / "runs" / A, t.folder / f"plan_{A}"
    slow = "slow:update:rank0:step1"  # 20 ms a step: no machine is done before it is stopped
    plan.write_text(slow)
    process = start(t, config)
    wait_for(lambda: committed(run), process)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=300)[1]
    t.expect(process.returncode == 75, f"TERM: exit {process.returncode}\n{error}")
    runs, _ = results(t, "stopped")
    t.expect((runs[A]["state"], runs[B]["state"]) == ("interrupted", "missing"), f"after TERM: {runs}")
    saved = steps_logged(run)[-1]
    t.expect(saved in committed(run), "the training saved")
    # The study itself is killed: its training saves and ends; nothing is lost.
    plan.write_text(slow)
    process = start(t, config)
    wait_for(lambda: max(committed(run), default=0) > saved, process)
    process.kill()
    process.communicate(timeout=300)
    for _ in range(600):  # its child holds the training's lease until it has saved
        done = subprocess.run([t.program, "sweep", "--config", str(config), "--summary"], cwd=t.folder,
                              capture_output=True, check=False)
        if done.returncode == 0 and not (run / "lease").read_bytes():
            break
        time.sleep(0.05)
    t.expect(results(t, "stopped")[0][A]["state"] == "interrupted", "after KILL")
    t.expect(saved < steps_logged(run)[-1] < 1000, "the training of a killed study saves and ends too")
    sweep(t, config)
    runs, _ = results(t, "stopped")
    t.expect(all(run["state"] == "finished" for run in runs.values()), f"at last: {runs}")
    whole = t.run("train", "--config", f"stopped/configs/{A}.textproto", "--out", "undisturbed")
    t.expect(whole.returncode == 0, whole.stderr)
    t.expect(steps_logged(run) == list(range(1, 1001)), "every step once")
    t.expect(losses(run) == losses(t.folder / "undisturbed"), "the losses of an undisturbed run")


def check_faults(t):
    config = study(t, "faults")
    (t.folder / f"plan_{A}").write_text("exit:forward:rank0:step13")
    (t.folder / f"plan_{B}").write_text("disk full")
    sweep(t, config)
    runs, _ = results(t, "faults")
    for name in (A, B):
        run = runs[name]
        t.expect(run["state"] == "finished" and run["attempts"] == 4, f"{name} after a fault: {run}")
        t.expect(steps_logged(t.folder / "faults" / "runs" / name) == list(range(1, 21)), f"{name}: every step once")
    # The newest checkpoint is damaged before it was scored.
    run = t.folder / "faults" / "runs" / A
    shard = next((run / "checkpoints" / "0000020").glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    (run / "evaluation" / "0000020.json").write_text("{ torn")
    sweep(t, config)
    t.expect(results(t, "faults")[0][A]["state"] == "finished", "after a damaged checkpoint")
    t.expect(t.run("checkpoint", "verify", run / "checkpoints" / "0000020").returncode == 0, "it was replaced")
    t.expect(steps_logged(run) == list(range(1, 21)), "every step once after a damaged checkpoint")


def check_failure(t):
    config = study(t, "failing")
    (t.folder / f"plan_{A}").write_text("always fails")
    done = sweep(t, config, "--json", code=79)
    t.expect(done.stderr.splitlines()[-1].startswith("shardit: 1 of 2 tasks failed"), done.stderr)
    runs = {run["name"]: run for run in json.loads(done.stdout)["runs"]}
    t.expect(runs[A]["state"] == "failed" and runs[A]["exit_code"] == 65 and "always fails" in runs[A]["message"],
             f"the failed run shows: {runs[A]}")
    t.expect(runs[B]["state"] == "finished", "the other one finished")
    with open(t.folder / "failing" / "results.csv", newline="") as file:
        row = next(csv.DictReader(file))
    t.expect(row["state"] == "failed" and '"really"' in row["message"] and row["fd"] == "", f"{row}")
    # As an element of a job array, which sees no other task.
    before = len(calls(t))
    sweep(t, t.folder / "failing" / "sweep.textproto", "--task", "0", code=79)
    sweep(t, t.folder / "failing" / "sweep.textproto", "--task", "1")
    t.expect(calls(t)[before:] == [f"train {A}"], f"{calls(t)[before:]}")
    (t.folder / f"plan_{A}").unlink()
    sweep(t, t.folder / "failing" / "sweep.textproto", "--task", "0")
    t.expect(results(t, "failing")[0][A]["state"] == "finished", "the failure is mended")
    moved = (t.folder / "failing").rename(t.folder / "moved")
    done = sweep(t, moved / "sweep.textproto", "--set", "out=moved", "--summary", "--json")
    t.expect(json.loads(done.stdout)["runs"][0]["state"] == "finished", "a moved study is what it was")


def check_slurm(t):
    """A stand-in for sbatch that keeps what it gets."""
    folder = t.folder / "bin"
    folder.mkdir()
    t.write_script("bin/sbatch", "#!/bin/sh\necho \"$@\" >> sbatch_calls\nwc -l < sbatch_calls\n")
    text = STUDY + 'slurm { time: "10" partition: "debug" max_running: 1 setup: "module load x" }\n'
    config = study(t, "queued", text)
    environment = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}")
    command = [t.program, "sweep", "--config", str(config), "--launcher", "slurm"]
    done = subprocess.run([*command, "--json"], cwd=t.folder, env=environment, capture_output=True, text=True, check=False)
    t.expect(done.returncode == 0, done.stderr)
    submitted = json.loads(done.stdout)
    t.expect((submitted["array_job"], submitted["summary_job"], submitted["tasks"]) == ("1", "2", [0, 1]), f"{submitted}")
    script = (t.folder / "queued" / "jobs" / "sweep.sbatch").read_text()
    for line in ("#SBATCH --array=0-1%1\n", "#SBATCH --time=10\n", "#SBATCH --partition=debug\n", "module load x\n",
                 "'--task' \"$SLURM_ARRAY_TASK_ID\" &\n"):
        t.expect(line in script, f"{line} is not in {script}")
    t.expect("afterany:1\n" in (t.folder / "queued" / "jobs" / "sweep_summary.sbatch").read_text(), "the summary waits")
    sweep(t, t.folder / "queued" / "sweep.textproto", "--task", "0")
    done = subprocess.run(command, cwd=t.folder, env=environment, capture_output=True, text=True, check=False)
    t.expect("array 1%1" in done.stdout, f"only what is not done is submitted: {done.stdout}")
    (folder / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    done = subprocess.run(command, cwd=t.folder, env=environment, capture_output=True, text=True, check=False)
    t.expect(done.returncode == 74 and "invalid partition" in done.stderr, f"{done.returncode} {done.stderr}")


def main():
    t = Harness()
    t.data = t.write_data("data.h5")
    t.write_config("launcher.py", LAUNCHER)
    t.write_config("extractor.safetensors", "weights")
    t.write_config("reference.npz", "images")
    check_dry_run(t)
    check_bad_configs(t)
    check_whole(t)
    check_repetition(t)
    check_stops(t)
    check_faults(t)
    check_failure(t)
    check_slurm(t)
    t.finish()


if __name__ == "__main__":
    main()
