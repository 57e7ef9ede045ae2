#!/usr/bin/env python3
"""The checkpoint command from outside: what a run wrote is listed, shown, verified, compared, cut for another layout,
resumed from there with the same numbers, and exported; damage and misuse are told by exit code and message."""
import json
import shutil
import struct

from harness import Harness, losses

CONFIG = """
model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }
data { path: "data.h5" }
train { steps: 4 global_batch: 4 seed: 5 threads: 1 }
checkpoint { every_steps: 2 keep_last: 5 }
log { every_steps: 1 tensorboard: false }
"""
COMMANDS = ["ls", "show", "verify", "diff", "reshard", "export"]


def check_help(t):
    for name in ["", *COMMANDS]:
        done = t.run("checkpoint", *name.split(), "--help")
        t.expect(done.returncode == 0 and "Example:" in done.stdout, f"help of {name}")
        t.expect(all(len(line) <= 80 for line in done.stdout.splitlines()), f"help of {name} is wider than 80 columns")


def check_reports(t):
    rows = json.loads(t.run("checkpoint", "ls", "run", "--json").stdout)
    t.expect([row["step"] for row in rows] == [2, 4] and all(row["good"] for row in rows), f"ls: {rows}")
    t.expect(rows[1]["shards"] == 2 and rows[1]["layout"]["dp"] == 2, f"ls: {rows[1]}")
    t.expect("dp2 tp1 pp1 z0" in t.run("checkpoint", "ls", "run").stdout, "ls does not show the layout")
    one = t.run("checkpoint", "ls", rows[0]["folder"])
    t.expect(one.returncode == 64 and "checkpoint show" in one.stderr, f"ls of a checkpoint: {one.stderr}")
    (t.folder / "nothing").mkdir()
    t.expect("no checkpoints in 'nothing'" in t.run("checkpoint", "ls", "nothing").stdout, "ls of an empty folder")
    shown = json.loads(t.run("checkpoint", "show", "run", "--json").stdout)
    t.expect(shown["step"] == 4 and shown["shards"] == 2, f"show: {shown['step']}")
    t.expect(any(tensor["slices"] > 1 for tensor in shown["tensors"]), "show: no tensor is in several slices")
    t.expect(t.run("checkpoint", "verify", "run").returncode == 0, "verify")


def check_diff(t):
    same = t.run("checkpoint", "diff", "run", "run/checkpoints/0000004")
    t.expect(same.returncode == 0 and "are equal" in same.stdout, f"diff of equals: {same.stdout}{same.stderr}")
    differ = t.run("checkpoint", "diff", "run/checkpoints/0000002", "run", "--json")
    t.expect(differ.returncode == 1, f"diff of others: exit code {differ.returncode}")
    report = json.loads(differ.stdout)
    t.expect("step: 2 -> 4" in report["scalars"] and report["tensors"], f"diff: {report['scalars']}")
    t.expect(report["tensors"][0]["differing"] > 0 and report["tensors"][0]["max_abs"] > 0, "diff measures nothing")
    t.expect(t.run("checkpoint", "diff", "run", "nowhere").returncode == 65, "diff with nothing")


def check_reshard(t):
    done = t.run("checkpoint", "reshard", "run", "--out", "cut", "--world", 6, "--tp", 2, "--zero-stage", 1)
    t.expect(done.returncode == 0, f"reshard: {done.stderr}")
    t.expect(len(list((t.folder / "cut/0000004").glob("shard-*"))) == 6, "reshard: not six shards")
    t.expect(t.run("checkpoint", "verify", "cut").returncode == 0, "reshard: does not verify")
    t.expect(t.run("checkpoint", "diff", "run", "cut").returncode == 0, "reshard: differs")
    for source, out in [("run/checkpoints/0000004", "a"), ("cut/0000004", "b")]:
        done = t.run("train", "--config", "run.textproto", "--set", "train.steps=6", "--out", out, "--resume", source)
        t.expect(done.returncode == 0, f"resume from {source}: {done.stderr}")
    t.expect(losses(t.folder / "a") == losses(t.folder / "b"), "losses after reshard differ")
    again = t.run("checkpoint", "reshard", "run", "--out", "cut", "--world", 1)
    t.expect(again.returncode == 73, f"reshard onto another: exit code {again.returncode}")
    for arguments in [("--world", 6, "--tp", 4), ("--world", 4, "--dp", 3), ("--world", 4, "--tp", 4),
                      ("--world", 3, "--pp", 3)]:
        wrong = t.run("checkpoint", "reshard", "run", "--out", "wrong", *arguments)
        t.expect(wrong.returncode == 64 and not (t.folder / "wrong").exists(), f"reshard {arguments}: {wrong}")


def keys_of_shards(folder):
    """The tensors of each shard file, by name."""
    found = {}
    for path in folder.glob("shard-*"):
        content = path.read_bytes()
        header = json.loads(content[8:8 + struct.unpack("<Q", content[:8])[0]])
        found[path.name] = sorted(key for key in header if key != "__metadata__")
    return found


def check_layouts(t):
    """Sharded runs: each saves the state that it would find again, and reshard cuts another's state just as it does."""
    for ranks, settings in [(2, {"tp": 2}), (2, {"pp": 2}), (2, {"zero_stage": 3}), (4, {"pp": 2, "zero_stage": 1})]:
        out = "_".join(f"{name}{value}" for name, value in settings.items())
        sets = [word for name, value in settings.items() for word in ("--set", f"parallel.{name}={value}")]
        done = t.run("train", "--config", "run.textproto", "--out", out, *sets, ranks=ranks)
        t.expect(done.returncode == 0, f"{out}: {done.stderr}")
        t.expect(t.run("checkpoint", "verify", out).returncode == 0, f"{out} does not verify")
        layout = json.loads(t.run("checkpoint", "show", out, "--json").stdout)["layout"]
        t.expect(layout["world"] == ranks and all(layout[n] == v for n, v in settings.items()), f"{out}: {layout}")
        axes = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        done = t.run("checkpoint", "reshard", "run", "--out", f"{out}_cut", "--world", ranks, *axes)
        t.expect(done.returncode == 0, f"reshard {out}: {done.stderr}")
        written = keys_of_shards(t.folder / out / "checkpoints/0000004")
        t.expect(written == keys_of_shards(t.folder / f"{out}_cut/0000004"), f"{out}: reshard cuts otherwise")


def check_export(t):
    done = t.run("checkpoint", "export", "run", "--format", "diffusers", "--out", "folder")
    t.expect(done.returncode == 0, f"export: {done.stderr}")
    found = sorted(str(p.relative_to(t.folder / "folder")) for p in (t.folder / "folder").rglob("*") if p.is_file())
    t.expect(found == ["model_index.json", "scheduler/scheduler_config.json", "transformer/config.json",
                       "transformer/diffusion_pytorch_model.safetensors"], f"export: {found}")
    t.expect(t.run("checkpoint", "export", "run", "--out", "w.safetensors").returncode == 0, "export --format dit")


def check_damage(t):
    shutil.copytree(t.folder / "run/checkpoints", t.folder / "damaged")
    shard = t.folder / "damaged/0000004/shard-00001-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    for command in [["verify", "damaged"], ["diff", "damaged", "run"],
                    ["reshard", "damaged", "--out", "lost", "--world", 1]]:
        done = t.run("checkpoint", *command)
        t.expect(done.returncode == 65, f"{command}: exit code {done.returncode}")
        t.expect(shard.name in done.stderr, f"{command} does not name the shard: {done.stderr}")
    t.expect(not list((t.folder / "lost").iterdir()), "reshard of a damaged checkpoint left something")


def main():
    t = Harness()
    t.write_data("data.h5", count=24)
    t.write_config("run.textproto", CONFIG)
    done = t.run("train", "--config", "run.textproto", "--out", "run", ranks=2)
    t.expect(done.returncode == 0, done.stderr)
    for check in [check_help, check_reports, check_diff, check_reshard, check_layouts, check_export, check_damage]:
        check(t)
    t.finish()


if __name__ == "__main__":
    main()
