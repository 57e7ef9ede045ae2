#!/usr/bin/env python3
"""Our training step beside PyTorch's on the same machine in the same minutes: the two programs run in turn, A B A B, and
the medians of their medians are compared. Prints a table and writes JSON.

usage: compare_step.py --step-bench build/release/bin/step_bench [--python NAME=PYTHON]... [--rounds 3] [--out FILE]

Each --python names an interpreter with PyTorch; every one is tried eagerly and (torch 2) compiled, and with one thread and
with all, and its best configuration is the peer. OMP_WAIT_POLICY is passive, as for anyone who shares a machine.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

CASES = [("S/2", 4, 1.5), ("S/8", 32, 1.6), ("w192", 8, 1.9)]  # size, batch, target ratio


def run(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)["median_ms"]


def torch_command(python, size, batch, threads, steps, compiled):
    script = pathlib.Path(__file__).with_name("torch_step.py")
    command = [python, str(script), "--size", size, "--batch", str(batch), "--threads", str(threads), "--steps", str(steps)]
    return command + (["--compile"] if compiled else [])


def peers(options):
    for entry in options.python:
        name, python = entry.split("=", 1)
        version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True,
                                 check=True).stdout.strip()
        for compiled in (False, True) if version.startswith("2") and options.compile else (False,):
            for threads in (1, options.threads):
                yield f"{name} {version}{' compile' if compiled else ''} x{threads}", python, threads, compiled


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--step-bench", required=True)
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--out")
    options = parser.parse_args()
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    rows = []
    for size, batch, target in CASES:
        ours = {threads: [] for threads in (1, options.threads)}
        theirs = {peer[0]: [] for peer in peers(options)}
        for _ in range(options.rounds):
            for threads, times in ours.items():
                times.append(run([options.step_bench, "--size", size, "--batch", str(batch), "--threads", str(threads),
                                  "--steps", str(options.steps)]))
            for name, python, threads, compiled in peers(options):
                command = torch_command(python, size, batch, threads, options.steps, compiled)
                theirs[name].append(run(command, environment))
        medians = {name: statistics.median(times) for name, times in theirs.items()}
        best = min(medians, key=medians.get, default=None)
        mine = statistics.median(ours[options.threads])
        rows.append({"size": size, "batch": batch, "ours_ms": mine, "ours_one_thread_ms": statistics.median(ours[1]),
                     "scaling": statistics.median(ours[1]) / mine, "peers_ms": medians, "best_peer": best,
                     "ratio": medians[best] / mine if best else None, "target": target})
        print(f"{size:>5} batch {batch:<3} ours {mine:8.1f} ms   threads {options.threads} over 1: {rows[-1]['scaling']:.2f}"
              + (f"   best peer {medians[best]:8.1f} ms ({best})   ratio {rows[-1]['ratio']:.2f} (target {target})"
                 if best else ""), file=sys.stderr, flush=True)
    report = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "cases": rows}
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        pathlib.Path(options.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
