#!/usr/bin/env python3
"""N + N steps are 2 N steps, bit for bit, for every option of the trainer; signals stop a run with its state saved; a resume
may change the layout along any axis and may not change the model; bad checkpoints, saves that fail and steps to go back to
cost no state; exported weights start another run."""
import os
import signal
import subprocess
import time

from harness import Harness, checkpoint_bytes, committed, losses, steps_logged, wait_for

BASE = """
model { depth: 2 width: 32 heads: 2 patch: 2 channels: 2 side: 8 classes: 3 class_dropout: 0.3 }
data { path: "%s" flip: true }
optimizer { learning_rate: 1e-3 }
ema { decay: 0.9 }
train { steps: 12 global_batch: 6 seed: 5 }
checkpoint { every_steps: 3 keep_last: 2 }
log { every_steps: 1 tensorboard: false }
"""
# Settings beside BASE. 40 samples in batches of 6: the stop at step 6 lies inside epoch 0 and the end in epoch 1.
OPTIONS = [
    [],
    ["optimizer.clip_norm=0.1", "optimizer.weight_decay=0.1"],
    ["optimizer.warmup_steps=9", "optimizer.schedule=COSINE"],
    ["optimizer.schedule=LINEAR", "optimizer.final_fraction=0.1"],
    ["ema.warmup=true"],
    ["train.micro_batch=1"],
    ["train.micro_batch=3", "parallel.recompute=FULL"],
    ["parallel.recompute=SELECTIVE"],
    ["data.in_memory=true", "data.flip=false"],
    ["data.path=moments.h5"],
    ["model.conditioning=ADALN"],
    ["model.conditioning=CROSS_ATTENTION"],
    ["model.conditioning=IN_CONTEXT"],
    ["model.learn_sigma=false", "diffusion.schedule=COSINE"],
    ["diffusion.prediction=V"],
    ["diffusion.prediction=X0"],
    ["checkpoint.async=false"],
    ["checkpoint.every_steps=0"],
]
# Ranks and settings: the same layout before and after.
SHARDED = [
    (2, ["parallel.tp=2"]),
    (2, ["parallel.tp=2", "parallel.sequence_parallel=true", "model.conditioning=IN_CONTEXT"]),
    (2, ["parallel.pp=2"]),
    (2, ["parallel.pp=2", "parallel.schedule=ZERO_BUBBLE_H1", "model.conditioning=CROSS_ATTENTION"]),
    (2, ["parallel.zero_stage=1"]),
    (2, ["parallel.zero_stage=2", "train.micro_batch=1"]),
    (3, ["parallel.zero_stage=3"]),
    (2, ["parallel.zero_stage=2", "train.deterministic=true", "train.virtual_shards=2"]),
    (4, ["parallel.zero_stage=3", "parallel.tp=2", "parallel.sequence_parallel=true"]),
]
# Ranks and settings of the runs that hand one run on, three steps each.
MOVES = [
    (2, ["parallel.zero_stage=2"]),
    (4, ["parallel.tp=2", "parallel.pp=2", "parallel.sequence_parallel=true"]),
    (3, ["parallel.zero_stage=3", "train.micro_batch=1"]),
    (4, ["parallel.pp=2", "parallel.schedule=ZERO_BUBBLE_H1", "parallel.zero_stage=1", "train.micro_batch=3"]),
]


def train(t, config, out, settings=(), extra=(), ranks=0, code=0):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", config, "--out", out, *sets, *extra, ranks=ranks)
    t.expect(done.returncode == code, f"{out}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    return done


def same_run(t, one, other, label):
    t.expect(losses(t.folder / one) == losses(t.folder / other), f"{label}: losses differ")
    t.expect(steps_logged(t.folder / other) == list(range(1, 13)), f"{label}: rows {steps_logged(t.folder / other)}")
    a, b = checkpoint_bytes(t.folder / one, 12), checkpoint_bytes(t.folder / other, 12)
    t.expect(a and a == b, f"{label}: final states differ")


def check_halves(t, config, name, ranks, settings):
    whole, halves = f"whole_{name}", f"halves_{name}"
    train(t, config, whole, settings, ranks=ranks)
    train(t, config, halves, settings, ["--stop-after", "6"], ranks=ranks, code=75)
    train(t, config, halves, settings, ranks=ranks)
    same_run(t, whole, halves, f"{settings} on {max(ranks, 1)} ranks")


def check_options(t, config):
    for index, settings in enumerate(OPTIONS):
        check_halves(t, config, index, 2 if index in (0, 1, 5) else 0, settings)
    for index, (ranks, settings) in enumerate(SHARDED):
        check_halves(t, config, f"sharded_{index}", ranks, settings)


def check_signals(t, config):
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        out = f"signal_{int(number)}"
        command = [t.program, "train", "--config", str(config), "--out", out, "--set", "train.steps=100000"]
        process = subprocess.Popen(command, cwd=t.folder, stderr=subprocess.DEVNULL)
        wait_for(lambda: committed(t.folder / out), process)
        os.kill(process.pid, number)
        t.expect(process.wait(timeout=60) == 75, f"signal {int(number)}: exit code {process.returncode}")
        stopped = steps_logged(t.folder / out)[-1]
        t.expect(checkpoint_bytes(t.folder / out, stopped), f"signal {int(number)}: nothing saved at step {stopped}")


def check_job_end(t, config):
    """A run that knows when its job ends stops in time, with its state saved, and the next job goes on."""
    begin = time.monotonic()
    train(t, config, "job_begin", (), ["--stop-after", "1"], ranks=2, code=75)
    started = time.monotonic() - begin
    os.environ["SHARDIT_JOB_END"] = str(time.time() + 12 + 3 * started)  # the margin is 5 s
    stopped = train(t, config, "job_end", ["train.steps=100000", "checkpoint.every_steps=0"], ranks=2, code=75)
    if os.environ.get("SHARDIT_LONG_TESTS"):
        t.expect(time.time() < float(os.environ["SHARDIT_JOB_END"]), "job end: the run outlived its job")
    t.expect("before the end of the job" in stopped.stderr, f"job end: {stopped.stderr}")
    step = steps_logged(t.folder / "job_end")[-1]
    t.expect(step > 1 and checkpoint_bytes(t.folder / "job_end", step), f"job end: nothing saved at step {step}")
    # A job that is over before it begins computes nothing, and the run is not harmed.
    os.environ["SHARDIT_JOB_END"] = str(time.time() - 1)
    train(t, config, "job_end", ["train.steps=100000"], code=75)
    t.expect(steps_logged(t.folder / "job_end")[-1] == step, "job end: a late job did steps")
    os.environ["SHARDIT_JOB_END"] = "soon"
    refused = train(t, config, "job_end", ["train.steps=100000"], code=64)
    t.expect("SHARDIT_JOB_END" in refused.stderr, f"job end: {refused.stderr}")
    del os.environ["SHARDIT_JOB_END"]
    train(t, config, "job_end", [f"train.steps={step + 3}"])
    t.expect(steps_logged(t.folder / "job_end") == list(range(1, step + 4)), "job end: rows lost or repeated")


def check_other_layouts(t, config):
    train(t, config, "moved", (), ["--stop-after", "6"], ranks=2, code=75)
    train(t, config, "moved", ["train.micro_batch=1"], ["--stop-after", "3"], ranks=0, code=75)
    train(t, config, "moved", ranks=3)
    got, expected = losses(t.folder / "moved"), losses(t.folder / "whole_0")
    error = max(abs(a - b) / abs(b) for a, b in zip(got, expected))
    t.expect(len(got) == 12 and error < 1e-5, f"2, then 1, then 3 ranks: relative error {error}")
    for index, (ranks, settings) in enumerate(MOVES):
        last = index == len(MOVES) - 1
        train(t, config, "cut", settings, [] if last else ["--stop-after", "3"], ranks=ranks, code=0 if last else 75)
    got = losses(t.folder / "cut")
    error = max(abs(a - b) / abs(b) for a, b in zip(got, expected))
    t.expect(len(got) == 12 and error < 1e-5, f"from layout to layout: relative error {error}")


def check_refusals(t, config):
    for setting in ("model.width=48", "diffusion.schedule=COSINE", "train.seed=6", "train.global_batch=12"):
        done = train(t, config, "halves_0", [setting, "train.steps=14"], code=64)
        t.expect(setting.split("=")[0] in done.stderr, f"{setting}: the difference is not named: {done.stderr}")
    done = train(t, config, "halves_0", (), ["--resume", "7"], code=65)
    t.expect("7" in done.stderr and "12" in done.stderr, f"missing step: {done.stderr}")
    for ranks in (0, 2):
        train(t, config, "halves_0", (), ["--resume", "never"], ranks=ranks, code=64)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != "latest")


def flip_last_byte(checkpoint):
    """Of the last shard: a second moment, which is read last."""
    shard = sorted(checkpoint.glob("shard-*"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def check_only_bad(t, config):
    """Where there are checkpoints and none is good, a run is not begun anew over them, let alone on half of a state."""
    for ranks, settings in ((0, []), (2, ["parallel.zero_stage=1"])):
        out = f"bad_{ranks}"
        run = t.folder / out
        train(t, config, out, settings, ["--stop-after", "6"], ranks=ranks, code=75)
        rows = losses(run)
        for name in ("0000003", "0000006"):
            flip_last_byte(run / "checkpoints" / name)
        done = train(t, config, out, settings, ranks=ranks, code=65)
        t.expect(all(word in done.stderr for word in ("0000003", "0000006", "CRC32C", "--resume never")),
                 f"{out}: {done.stderr}")
        for name in ("0000003", "0000006"):
            (run / "checkpoints" / name / "MANIFEST").write_bytes(b"of a later version")
        train(t, config, out, settings, ranks=ranks, code=65)
        t.expect(losses(run) == rows and names(run) == ["0000003", "0000006"], f"{out}: the run was touched")
        for name in ("0000003", "0000006"):
            (run / "checkpoints" / name).rename(run / f"moved_{name}")
        train(t, config, out, settings, ranks=ranks)
        t.expect(losses(run)[:6] == rows, f"{out}: not a fresh start")


def check_going_back(t, config):
    """A start from a named step is where the next automatic one goes on, and nothing is lost."""
    settings = ["checkpoint.keep_last=9"]
    for ranks in (0, 2):
        out = f"back_{ranks}"
        run = t.folder / out
        train(t, config, out, settings, ranks=ranks)
        whole = losses(run), checkpoint_bytes(run, 12)
        done = train(t, config, out, settings, ["--resume", "3", "--stop-after", "2"], ranks=ranks, code=75)
        t.expect("with --resume auto to go on" in done.stderr, f"going back: {done.stderr}")
        t.expect(names(run) == ["0000003", "0000005", "0000006.aside-1", "0000009.aside-1", "0000012.aside-1"],
                 f"going back: {names(run)}")
        done = train(t, config, out, settings, ranks=ranks)
        t.expect("0000005 at step 5" in done.stderr, f"not from the new branch: {done.stderr}")
        t.expect((losses(run), checkpoint_bytes(run, 12)) == whole, f"going back on {max(ranks, 1)} ranks: another run")
        old = run / "checkpoints" / "0000012.aside-1"
        same = [shard.read_bytes() == (run / "checkpoints/0000012" / shard.name).read_bytes()
                for shard in old.glob("shard-*")]
        t.expect(same and all(same), "the checkpoint set aside is not what it was")


def check_linked(t, config):
    """A checkpoint that was moved to another disk, with a link in its place."""
    train(t, config, "linked", (), ["--stop-after", "6"], code=75)
    folder = t.folder / "linked" / "checkpoints" / "0000006"
    folder.rename(t.folder / "another_disk")
    folder.symlink_to(t.folder / "another_disk")
    done = train(t, config, "linked")
    t.expect("0000006 at step 6" in done.stderr, f"linked: {done.stderr}")
    t.expect(not folder.exists() and len(list((t.folder / "another_disk").iterdir())) == 2,
             "linked: retention removed more, or less, than the link")


def check_failed_saves(t, config):
    """A save that fails costs the run nothing once saving works again; one that is asked for and fails ends it with 74."""
    for ranks, settings in ((0, []), (0, ["checkpoint.async=false"]), (2, [])):
        out = f"failed_{ranks}_{len(settings)}"
        checkpoints, away = t.folder / out / "checkpoints", t.folder / out / "away"
        log = t.folder / out / "log.txt"
        sets = [word for setting in settings for word in ("--set", setting)]
        launcher = [*t.mpirun, "-n", str(ranks)] if ranks else []
        for code in (75, 74):
            command = [*launcher, t.program, "train", "--config", str(config), "--out", out, "--set",
                       "train.steps=100000", "--set", "checkpoint.keep_last=1000000", *sets]
            with open(t.folder / f"{out}_{code}.err", "w", encoding="utf-8") as error:
                process = subprocess.Popen(command, cwd=t.folder, stderr=error)
            told = log.read_text().count("a save failed") if log.exists() else 0
            saved = len(committed(t.folder / out))
            wait_for(lambda: len(committed(t.folder / out)) > saved, process)
            checkpoints.rename(away)
            wait_for(lambda: log.read_text().count("a save failed") > told, process)
            if code == 75:
                away.rename(checkpoints)
            process.send_signal(signal.SIGUSR1)
            t.expect(process.wait(timeout=60) == code, f"{out}: exit code {process.returncode}, expected {code}")
            stopped = steps_logged(t.folder / out)[-1]
            t.expect(bool(checkpoint_bytes(t.folder / out, stopped)) == (code == 75), f"{out}: step {stopped} at {code}")
        away.rename(checkpoints)


def check_weights(t, config):
    for weights in ("ema", "model"):
        done = t.run("checkpoint", "export", "whole_0", "--weights", weights, "--out", f"{weights}.safetensors")
        t.expect(done.returncode == 0, f"export {weights}: {done.stderr}")
    train(t, config, "started", ["train.steps=1"], ["--init-from", "model.safetensors"])
    first, trained = losses(t.folder / "started")[0], losses(t.folder / "whole_0")[0]
    t.expect(first != trained, "--init-from changed nothing")
    done = t.run("sample", "--checkpoint", "ema.safetensors", "--num", "6", "--steps", "4", "--out", "a.npz")
    t.expect(done.returncode == 0, f"sample from an export: {done.stderr}")
    done = t.run("sample", "--checkpoint", "whole_0", "--num", "6", "--steps", "4", "--out", "b.npz", ranks=2)
    t.expect(done.returncode == 0, f"sample from a run on 2 ranks: {done.stderr}")
    t.expect((t.folder / "a.npz").read_bytes() == (t.folder / "b.npz").read_bytes(),
             "samples differ between an export on one rank and the run on two")


def main():
    t = Harness()
    t.write_data("data.h5", count=40, channels=2)
    t.write_moments("moments.h5", count=40, channels=2)
    config = t.write_config("base.textproto", BASE % "data.h5")
    check_options(t, config)
    check_signals(t, config)
    check_job_end(t, config)
    check_other_layouts(t, config)
    check_refusals(t, config)
    check_only_bad(t, config)
    check_going_back(t, config)
    check_linked(t, config)
    check_failed_saves(t, config)
    check_weights(t, config)
    t.finish()


if __name__ == "__main__":
    main()
