#!/usr/bin/env python3
"""--help fits 80 columns and shows an example; --json prints exactly one document; --version; dry runs; rank 0 speaks."""
import json

from harness import SMALL_MODEL, Harness

COMMANDS = ["", "models", "data", "data import-idx", "data info", "data verify", "train", "plan", "sample", "parity",
            "checkpoint", "checkpoint ls", "checkpoint show", "checkpoint verify", "checkpoint export", "bench",
            "doctor"]


def check_help(t):
    for command in COMMANDS:
        done = t.run(*command.split(), "--help")
        t.expect(done.returncode == 0, f"{command} --help: exit code {done.returncode}")
        t.expect("Example:" in done.stdout, f"{command} --help: no example")
        for line in done.stdout.splitlines():
            t.expect(len(line) <= 80, f"{command} --help: a line of {len(line)} columns: {line}")


def check_unknown_words(t):
    for arguments, expected in ((["trian"], "unknown command trian"), (["train", "--confg", "x"], "unknown option --confg"),
                                (["train", "x.textproto"], "got x.textproto that belongs to no option"),
                                (["--verson"], "unknown option --verson"), (["data", "infos"], "unknown command infos")):
        done = t.run(*arguments)
        t.expect(done.returncode == 64 and expected in done.stderr, f"{arguments}: {done.returncode} {done.stderr}")


def json_of(t, *arguments, ranks=0):
    done = t.run(*arguments, ranks=ranks)
    t.expect(done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        t.expect(False, f"{arguments}: standard output is not one JSON document ({error}): {done.stdout!r}")
        return None


def check_models(t):
    rows = json_of(t, "models", "--json")
    t.expect(len(rows) == 48, "models: expected 12 sizes x 4 conditionings")
    t.expect(list(rows[0]) == ["name", "conditioning", "parameters", "gmacs_forward", "flops_train"], "models: keys")
    found = {(row["name"], row["conditioning"]): row["parameters"] for row in rows}
    t.expect(found[("DiT-XL/2", "ADALN_ZERO")] == 675129632, "models: parameters of DiT-XL/2")
    t.expect(len(json_of(t, "models", "--json", ranks=2)) == 48, "models on two ranks: one document")


def check_data(t):
    t.write_data("good.h5")
    info = json_of(t, "data", "info", "good.h5", "--json")
    t.expect((info["count"], info["channels"], info["height"]) == (24, 1, 8), f"data info: {info}")
    t.expect(info["class_counts"] == [8, 8, 8], f"data info: {info['class_counts']}")
    t.expect(t.run("data", "verify", "good.h5").returncode == 0, "data verify")


def check_dry_run(t):
    t.write_config("dry.textproto", SMALL_MODEL + 'data { path: "good.h5" }')
    before = t.files()
    done = t.run("train", "--config", "dry.textproto", "--out", "run", "--set", "train.seed=5", "--dry-run", ranks=2)
    t.expect(done.returncode == 0, f"--dry-run: exit code {done.returncode}: {done.stderr}")
    for words in ["seed: 5", "dp: 2", "micro_batch: 4", "learning_rate: 0.0001"]:
        t.expect(done.stdout.count(words) == 1, f"--dry-run: {words!r} not once in {done.stdout}")
    t.expect(t.files() == before, "--dry-run wrote files")


def check_checkpoint(t):
    done = t.run("train", "--config", "dry.textproto", "--out", "run", ranks=2)
    t.expect(done.returncode == 0, f"train: exit code {done.returncode}: {done.stderr}")
    rows = json_of(t, "checkpoint", "ls", "run", "--json")
    t.expect([row["step"] for row in rows] == [4] and rows[0]["good"], f"checkpoint ls: {rows}")
    t.expect(json_of(t, "checkpoint", "show", "run", "--json")["step"] == 4, "checkpoint show")
    t.expect(json_of(t, "checkpoint", "verify", "run", "--json")["good"], "checkpoint verify")
    done = t.run("checkpoint", "export", "run", "--out", "w.safetensors")
    t.expect(done.returncode == 0 and (t.folder / "w.safetensors").exists(), f"checkpoint export: {done.stderr}")
    for name in ["config.textproto", "log.txt", "metrics.jsonl", "tensorboard", "checkpoints/0000004"]:
        t.expect((t.folder / "run" / name).exists(), f"run folder: no {name}")
    steps = [json.loads(line)["step"] for line in (t.folder / "run/metrics.jsonl").read_text().splitlines()]
    t.expect(steps == sorted(set(steps)) and steps[0] == 1, f"metrics.jsonl: steps {steps}")
    # One flipped byte in the middle of a shard is found and named.
    shard = next((t.folder / "run/checkpoints/0000004").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = t.run("checkpoint", "verify", "run", "--json")
    t.expect(done.returncode == 65 and not json.loads(done.stdout)["good"], f"verify of damage: {done}")
    t.expect(shard.name in done.stderr, f"verify of damage: {done.stderr}")


def main():
    t = Harness()
    check_help(t)
    check_unknown_words(t)
    done = t.run("--version")
    t.expect(done.stdout.startswith("shardit ") and "commit " in done.stdout, f"--version: {done.stdout}")
    check_models(t)
    check_data(t)
    check_dry_run(t)
    check_checkpoint(t)
    t.finish()


if __name__ == "__main__":
    main()
