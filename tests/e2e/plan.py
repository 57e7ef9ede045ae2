#!/usr/bin/env python3
"""shardit plan: memory and bytes are those that a run reports; layouts are found for worlds that are not there."""
import json
import resource

from harness import SMALL_MODEL, Harness, rows_logged

MACHINES = """name: "small" devices_per_node: 8 fp32_gflops: 66900 memory_gbytes_per_s: 3000 memory_gib: 79
intra_node { latency_us: 8 gbytes_per_s: 370 } inter_node { latency_us: 15 gbytes_per_s: 45 }"""
LARGE = "model { depth: 48 width: 3456 heads: 32 patch: 2 side: 64 } train { global_batch: 4096 }"


def plan(t, *arguments, ranks=0):
    done = t.run("plan", *arguments, "--json", ranks=ranks)
    t.expect(done.returncode == 0, f"plan {arguments}: exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def check_against_runs(t):
    t.write_data("good.h5")
    t.write_config("run.textproto", SMALL_MODEL + 'data { path: "good.h5" } log { every_steps: 1 }')
    for name, ranks, sets in [("dp", 2, ["parallel.dp=2"]), ("pp", 2, ["parallel.pp=2", "train.micro_batch=2"]),
                              ("zero", 2, ["parallel.zero_stage=1"])]:
        arguments = [part for text in sets for part in ("--set", text)]
        done = t.run("train", "--config", "run.textproto", "--out", name, *arguments, ranks=ranks)
        t.expect(done.returncode == 0, f"train {name}: exit code {done.returncode}: {done.stderr}")
        row = rows_logged(t.folder / name)[-1]
        planned = plan(t, "--config", "run.textproto", *arguments, ranks=ranks)
        t.expect(planned["bytes_sent"] == row["bytes_sent"], f"{name}: planned {planned['bytes_sent']}, sent {row}")
        t.expect(abs(planned["ranks"][0]["peak_bytes"] / row["peak_bytes"] - 1) < 0.03,
                 f"{name}: planned {planned['ranks'][0]['peak_bytes']}, used {row['peak_bytes']}")


def check_text(t):
    t.write_config("machines.textproto", MACHINES)
    done = t.run("plan", "--config", "run.textproto", "--world", "4", "--cluster", "machines.textproto",
                 "--set", "parallel.pp=2", "--set", "train.micro_batch=1")
    t.expect(done.returncode == 0, f"plan: exit code {done.returncode}: {done.stderr}")
    for words in ["activations", "formula", "Pipeline, ONE_F_ONE_B", "pipeline bubble", "images/s"]:
        t.expect(words in done.stdout, f"plan: no {words!r} in {done.stdout}")
    for line in done.stdout.splitlines():
        t.expect(len(line) <= 120, f"plan: a line of {len(line)} columns: {line}")
    dry = t.run("train", "--config", "run.textproto", "--dry-run").stdout
    t.expect("activations" in dry, f"train --dry-run: no plan in {dry}")


def check_search(t):
    t.write_config("large.textproto", LARGE)
    found = plan(t, "--config", "large.textproto", "--world", "4096", "--cluster", "machines.textproto",
                 "--layout", "auto")
    layout = found["layout"]
    t.expect(layout["dp"] * layout["tp"] * layout["pp"] == 4096, f"layout auto: {layout}")
    t.expect(found["parameters"] > 10 ** 10 and found["fits"], f"layout auto: {found['parameters']} {found['fits']}")
    t.expect(found["peak_bytes"] < 79 * 2 ** 30, f"layout auto: {found['peak_bytes']} bytes a rank")
    search = found["search"]
    t.expect(search["estimated"] > 1000 and len(search["planned"]) > 1 and search["why"], f"layout auto: {search}")
    t.expect("does not fit" in search["kinds"][0]["why_not"], f"layout auto: {search['kinds'][0]}")
    rss = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    t.expect(rss < 2 ** 20, f"layout auto: {rss} KiB of memory to plan a run of {found['peak_bytes']} bytes a rank")


def check_errors(t):
    t.write_config("broken.textproto", MACHINES.replace("memory_gib: 79", "memory_gib: 0"))
    for arguments, words in [(["--layout", "best"], "--layout"), (["--cluster", "broken.textproto"], "memory_gib"),
                             (["--world", "3"], "global_batch"), (["--cluster", "none.textproto"], "none.textproto")]:
        done = t.run("plan", "--config", "run.textproto", *arguments)
        t.expect(done.returncode != 0 and words in done.stderr, f"plan {arguments}: {done.returncode} {done.stderr}")
        t.expect(done.stdout == "", f"plan {arguments}: {done.stdout}")
    for field, text in [("memory_gib", MACHINES.replace("79", "inf")), ("kernel_us", MACHINES + "kernel_us: nan"),
                        ("nodes", MACHINES + "nodes: -5")]:
        t.write_config("odd.textproto", text)
        done = t.run("plan", "--config", "run.textproto", "--cluster", "odd.textproto")
        t.expect(done.returncode == 64 and field in done.stderr, f"{field}: {done.returncode} {done.stderr}")


def main():
    t = Harness()
    check_against_runs(t)
    check_text(t)
    check_search(t)
    check_errors(t)
    t.finish()


if __name__ == "__main__":
    main()
