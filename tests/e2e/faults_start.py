#!/usr/bin/env python3
"""What is refused before the first step, and by which exit code: ranks that disagree, ranks that do not come, a folder that
another job uses, restarts that lead nowhere. Stops: by the end of the job; by signals to one rank, twice, during the start-up,
during a save."""
import os
import shlex
import signal
import subprocess
import time

from harness import Harness, checkpoint_bytes, committed, losses, steps_logged, wait_for

CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "data.h5" }
train { steps: 8 global_batch: 8 }
checkpoint { every_steps: 4 }
log { every_steps: 1 tensorboard: false }
"""
LONG = ["--set", "train.steps=100000"]


def train(t, config, out, extra=(), code=0, ranks=0):
    done = t.run("train", "--config", config, "--out", out, *extra, ranks=ranks)
    t.expect(done.returncode == code, f"{out}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    return done.stderr


def launch(t, script, ranks=2, timeout=60):
    """Runs a shell line on every rank; $R is the rank."""
    line = f"R=$OMPI_COMM_WORLD_RANK; {script}"
    return subprocess.run([*t.mpirun, "-n", str(ranks), "sh", "-c", line], capture_output=True, text=True, cwd=t.folder,
                          timeout=timeout, check=False)


def check_agreement(t, config):
    program, settings = shlex.quote(t.program), shlex.quote(str(config))
    begin = f"exec {program} train --config {settings} --out {shlex.quote(str(t.folder))}/disagree"
    done = launch(t, f"{begin} --set train.seed=$R")
    t.expect(done.returncode == 64, f"two seeds: exit code {done.returncode}\n{done.stderr}")
    t.expect("rank 1" in done.stderr and "train.seed: 0 -> 1" in done.stderr, f"two seeds: {done.stderr}")
    t.write_data("other0.h5", count=24)
    t.write_data("other1.h5", count=25)
    done = launch(t, f"ln -sf other$R.h5 mine$R.h5; {begin} --set data.path=mine$R.h5")
    t.expect(done.returncode == 64 and "data.path" in done.stderr, f"two paths: {done.returncode}\n{done.stderr}")
    for rank in (0, 1):
        folder = t.folder / f"node{rank}"
        folder.mkdir()
        os.symlink(t.folder / f"other{rank}.h5", folder / "data.h5")
    done = launch(t, f"cd node$R && {begin}")
    t.expect(done.returncode == 64 and "24 samples" in done.stderr and "25 samples" in done.stderr,
             f"two data sets of one path: {done.returncode}\n{done.stderr}")
    t.expect(not (t.folder / "disagree").exists(), "a run folder was made")
    # A node that lacks what the others have: all ranks hear of it, and none waits.
    t.write_config("config0.textproto", CONFIG)
    (t.folder / "branch0").mkdir()
    for flags, said in (("--config config$R.textproto", "config1"), (f"--config {settings} --resume branch$R", "branch1")):
        done = launch(t, f"exec {program} train --out disagree {flags}")
        t.expect(done.returncode == 64 and "rank 1: " in done.stderr and said in done.stderr,
                 f"{flags} on one rank: {done.returncode}\n{done.stderr}")
    copy = t.folder / "shardit_copy"
    copy.write_bytes(open(t.program, "rb").read() + b"\0")
    copy.chmod(0o755)
    done = launch(t, f'P={program}; [ $R = 1 ] && P={shlex.quote(str(copy))}; exec "$P" train --config {settings} --out disagree')
    t.expect(done.returncode == 64 and "program" in done.stderr, f"two programs: {done.returncode}\n{done.stderr}")


def check_missing_rank(t, config):
    begin = time.monotonic()
    done = launch(t, f"[ $R = 1 ] && exec sleep 60; SHARDIT_START_SECONDS=3 exec {shlex.quote(t.program)} train "
                     f"--config {shlex.quote(str(config))} --out missing", ranks=3)
    t.expect(done.returncode == 76, f"a rank that does not come: exit code {done.returncode}\n{done.stderr}")
    t.expect("missing: rank 1" in done.stderr, f"the missing rank is not named: {done.stderr}")
    t.expect(time.monotonic() - begin < 30, "a rank that does not come: too late")
    t.expect(not any(".start-" in path for path in t.files()), "tokens stayed behind")


def check_lease(t, config):
    command = [t.program, "train", "--config", str(config), "--out", "leased", *LONG]
    first = subprocess.Popen(command, cwd=t.folder, stderr=subprocess.DEVNULL)
    wait_for(lambda: committed(t.folder / "leased"), first)
    error = train(t, config, "leased", LONG, code=73)
    t.expect(f"pid {first.pid}" in error, f"the holder is not named: {error}")
    error = train(t, config, "leased", LONG, code=73, ranks=2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    begin = time.monotonic()
    train(t, config, "leased", ["--stop-after", "1", *LONG], code=75)
    t.expect(time.monotonic() - begin < 20, "a dead holder's folder was not taken at once")
    t.expect((t.folder / "leased" / "lease").read_text() == "", "the lease was not released")


def check_restarts(t, config):
    """A scheduler that restarts a job which dies before each save."""
    os.environ["SHARDIT_FAULT"] = "exit:update:rank0:step3"
    train(t, config, "stalled", code=-9)
    os.environ["SLURM_RESTART_COUNT"] = "1"
    for _ in range(3):
        train(t, config, "stalled", code=-9)
    error = train(t, config, "stalled", code=78)
    t.expect("3 restarts" in error, f"no reason: {error}")
    del os.environ["SLURM_RESTART_COUNT"]
    train(t, config, "stalled", code=-9)  # by hand: never counts
    os.environ["SHARDIT_FAULT"] = ""
    train(t, config, "stalled", ["--max-stalled-restarts", "2"])


def check_end_of_job(t, config):
    """A held-out loss that would outlast the job is not begun: the step before it is saved."""
    t.write_data("held_out.h5", count=20000)
    os.environ["SHARDIT_JOB_END"] = str(time.time() + 20)
    os.environ["SHARDIT_FAULT"] = "slow:update:rank0:step1"  # 20 ms a step, however fast the machine
    sets = ("train.global_batch=1", "train.steps=20", "checkpoint.every_steps=0", "data.validation_path=held_out.h5")
    error = train(t, config, "ending", [word for one in sets for word in ("--set", one)], code=75)
    del os.environ["SHARDIT_JOB_END"]
    os.environ["SHARDIT_FAULT"] = ""
    t.expect("before the end of the job" in error, f"end of the job: {error}")
    t.expect(steps_logged(t.folder / "ending")[-1] == 19, f"rows {steps_logged(t.folder / 'ending')}")
    t.expect(checkpoint_bytes(t.folder / "ending", 19), "end of the job: nothing saved")


def check_signal_to_one_rank(t, config):
    command = [*t.mpirun, "-n", "3", t.program, "train", "--config", str(config), "--out", "one_rank", *LONG,
               "--set", "train.global_batch=9"]
    process = subprocess.Popen(command, cwd=t.folder, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: committed(t.folder / "one_rank"), process)
    children = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True,
                                                   check=True).stdout.split()]
    os.kill(children[-1], signal.SIGUSR1)
    os.kill(children[-1], signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    t.expect(process.returncode == 75, f"signal to one rank: exit code {process.returncode}\n{error}")
    stopped = steps_logged(t.folder / "one_rank")[-1]
    t.expect(checkpoint_bytes(t.folder / "one_rank", stopped), f"nothing saved at step {stopped}")


def check_signal_at_start(t, config):
    """As soon as the run folder shows that the program has begun; it must not save what it has not computed."""
    process = subprocess.Popen([t.program, "train", "--config", str(config), "--out", "early", *LONG], cwd=t.folder,
                               stderr=subprocess.DEVNULL)
    wait_for((t.folder / "early").exists, process)
    process.send_signal(signal.SIGTERM)
    t.expect(process.wait(timeout=60) == 75, f"signal at the start: exit code {process.returncode}")
    until = ["--set", f"train.steps={max(committed(t.folder / 'early'), default=0) + 8}"]
    train(t, config, "early", until)
    train(t, config, "untouched", until)
    t.expect(losses(t.folder / "early") == losses(t.folder / "untouched"), "signal at the start: the losses differ")


def check_signal_during_save(t, config):
    """The checkpoint that was being written is committed, and none is written twice."""
    os.environ["SHARDIT_FAULT"] = "stop:save:rank0:step4"
    process = subprocess.Popen([t.program, "train", "--config", str(config), "--out", "saving", *LONG], cwd=t.folder,
                               stderr=subprocess.DEVNULL)
    os.waitpid(process.pid, os.WUNTRACED)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    os.environ["SHARDIT_FAULT"] = ""
    t.expect(process.wait(timeout=60) == 75, f"signal during a save: exit code {process.returncode}")
    t.expect(checkpoint_bytes(t.folder / "saving", 4), "signal during a save: nothing saved")
    t.expect(steps_logged(t.folder / "saving") == [1, 2, 3, 4], f"rows {steps_logged(t.folder / 'saving')}")


def main():
    t = Harness()
    t.write_data("data.h5")
    config = t.write_config("base.textproto", CONFIG)
    check_agreement(t, config)
    check_missing_rank(t, config)
    check_lease(t, config)
    check_restarts(t, config)
    check_end_of_job(t, config)
    check_signal_to_one_rank(t, config)
    check_signal_at_start(t, config)
    check_signal_during_save(t, config)
    t.finish()


if __name__ == "__main__":
    main()
