#!/usr/bin/env python3
"""Our training step beside PyTorch's on the same machine in the same minutes: the two programs run in turn, A B A B, and
the medians of their medians are compared. Prints a table and writes JSON.

usage: compare_step.py --step-bench build/release/bin/step_bench [--device cpu|cuda] [--python NAME=PYTHON]...
                       [--cases XL/2:128,S/2:256] [--rounds N] [--compile] [--out FILE] [--dry-run]

Each --python names an interpreter with PyTorch. Every configuration of it that could be the fastest is tried, and the
fastest is the peer. On a CPU: eager and (--compile, torch 2) compiled, with one thread and with all; OMP_WAIT_POLICY is
passive, as for anyone who shares a machine. On a GPU: bf16 by autocast, eager and compiled with max-autotune, and with
weights that are bf16 themselves, compiled; ours with graphs, in the same precision. A configuration that fails, for want
of memory, say, is named in the JSON and loses. --dry-run prints the commands instead. With --seconds nothing new is begun
after so many seconds, and what is known by then is reported.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

# Size, batch, target ratio; most important first.
CASES = {"cpu": [("S/2", 4, 1.5), ("S/8", 32, 1.6), ("w192", 8, 1.9)],
         "cuda": [("XL/2", 128, 1.25), ("S/2", 256, 1.4), ("XL/2", 32, 1.3), ("B/2", 256, 1.4), ("XL/2", 8, 1.5),
                  ("L/2", 128, None), ("L/2", 32, None), ("B/2", 32, None), ("S/2", 32, None)]}


class Contender:
    """One configuration of one program. Its times are medians of one process each."""

    def __init__(self, name, command, environment=None):
        self.name, self.command, self.environment = name, command, environment
        self.reports, self.error = [], None

    def run(self, limit_s):
        if self.error is not None:
            return
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, check=False, env=self.environment,
                                  timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.error = f"no result in {limit_s:.0f} s"
            return
        if done.returncode != 0:
            self.error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return
        self.reports.append(json.loads(done.stdout))

    def ms(self):
        return statistics.median(report["median_ms"] for report in self.reports) if self.reports else None


def torch_version(python):
    return subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True,
                          check=True).stdout.strip()


def torch_command(python, size, batch, *flags):
    script = pathlib.Path(__file__).with_name("torch_step.py")
    return [python, "-B", str(script), "--size", size, "--batch", str(batch), *map(str, flags)]


def cpu_contenders(options, size, batch):
    for threads in dict.fromkeys((options.threads, 1)):
        yield Contender(f"ours x{threads}", [options.step_bench, "--size", size, "--batch", str(batch), "--threads",
                                             str(threads), "--steps", str(options.steps)])
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    for name, python, version in options.peers:
        for compiled in (False, True) if version.startswith("2") and options.compile else (False,):
            for threads in dict.fromkeys((1, options.threads)):
                flags = ["--threads", threads, "--steps", options.steps] + (["--compile"] if compiled else [])
                yield Contender(f"{name} {version}{' compile' if compiled else ''} x{threads}",
                                torch_command(python, size, batch, *flags), environment)


def cuda_contenders(options, size, batch):
    yield Contender("ours", [options.step_bench, "--device", "cuda", "--size", size, "--batch", str(batch), "--precision",
                             options.precision, "--graph", "on", "--steps", str(options.steps)])
    kinds = [("autocast", False), ("autocast", True), ("pure", True)] if options.precision == "bf16" else \
        [(options.precision, False), (options.precision, True)]
    for name, python, version in options.peers:
        for precision, compiled in kinds:
            flags = ["--device", "cuda", "--precision", precision, "--steps", options.steps]
            yield Contender(f"{name} {version} {precision} {'compiled' if compiled else 'eager'}",
                            torch_command(python, size, batch, *flags, *(["--compile", "max-autotune"] if compiled else [])))


def row_of(size, batch, target, ours, peers):
    """What a finished, or half finished, case says. `ours`: the contenders of ours, the first is the one that counts."""
    row = {"size": size, "batch": batch, "target": target, "ours_ms": ours[0].ms(), "ours": ours[0].reports,
           "ours_error": ours[0].error, "peers_ms": {peer.name: peer.ms() for peer in peers},
           "peers": {peer.name: peer.reports for peer in peers},
           "peer_errors": {peer.name: peer.error for peer in peers if peer.error}}
    if len(ours) > 1 and ours[0].ms() and ours[1].ms():
        row["ours_one_thread_ms"] = ours[1].ms()
        row["scaling"] = ours[1].ms() / ours[0].ms()
    timed = [peer for peer in peers if peer.ms()]
    best = min(timed, key=Contender.ms, default=None)
    eager = min((peer for peer in timed if "eager" in peer.name), key=Contender.ms, default=None)
    if best and row["ours_ms"]:
        row |= {"best_peer": best.name, "best_peer_ms": best.ms(), "ratio": best.ms() / row["ours_ms"]}
        if eager:
            row["ratio_to_eager"] = eager.ms() / row["ours_ms"]
    if row["ours_ms"]:
        row["images_per_s"] = 1e3 * batch / row["ours_ms"]
        row["mfu"] = ours[0].reports[-1].get("mfu")
    return row


def show(value, form, absent="-"):
    return absent if value is None else format(value, form)


def table(rows):
    lines = [f"{'model':>6} {'batch':>5} {'ours ms':>9} {'images/s':>9} {'MFU':>6} {'peer ms':>9} {'ratio':>6} {'target':>6} "
             f"{'eager':>6}  best peer"]
    for row in rows:
        mfu = row.get("mfu")
        lines.append(f"{row['size']:>6} {row['batch']:>5} {show(row['ours_ms'], '9.2f'):>9} "
                     f"{show(row.get('images_per_s'), '9.1f'):>9} {show(mfu and 100 * mfu, '.1f'):>6} "
                     f"{show(row.get('best_peer_ms'), '9.2f'):>9} {show(row.get('ratio'), '.2f'):>6} "
                     f"{show(row['target'], '.2f'):>6} {show(row.get('ratio_to_eager'), '.2f'):>6}  "
                     f"{row.get('best_peer') or row['ours_error'] or '; '.join(row['peer_errors'].values()) or '-'}")
    return "\n".join(lines)


def report(options, rows, final=False):
    """Writes what is known so far: a run may be cut short."""
    text = json.dumps({"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                       "device": options.device, "cases": rows}, indent=2)
    if options.out:
        pathlib.Path(options.out).write_text(text + "\n", encoding="utf-8")
    if options.headline:
        words = [f"{row['size']} {row['batch']} {row['ratio']:.2f}x" for row in rows if row.get("ratio")]
        pathlib.Path(options.headline).write_text("over the best PyTorch: " + ", ".join(words) + "\n", encoding="utf-8")
    if final:
        print(text)
        print(table(rows), file=sys.stderr)


def parse_case(text, device):
    size, batch = text.split(":")
    return next((case for case in CASES[device] if case[:2] == (size, int(batch))), (size, int(batch), None))


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-bench", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16", help="on a GPU")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--cases", help="SIZE:BATCH,... instead of the list at the head of this file")
    parser.add_argument("--rounds", type=int, help="default: 3 on a CPU, 2 on a GPU")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="also torch.compile, on a CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one process")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of one round and run nothing")
    parser.add_argument("--headline", help="file for one line")
    parser.add_argument("--out", help="file for the JSON")
    options = parser.parse_args()
    options.rounds = options.rounds or {"cpu": 3, "cuda": 2}[options.device]
    entries = [entry.split("=", 1) for entry in options.python]
    options.peers = [(name, python, "2.x" if options.dry_run else torch_version(python)) for name, python in entries]
    return options


def main():
    options = parse_options()
    cases = [parse_case(text, options.device) for text in options.cases.split(",")] if options.cases else CASES[options.device]
    contenders_of = {"cpu": cpu_contenders, "cuda": cuda_contenders}[options.device]
    begin, rows = time.monotonic(), []
    for size, batch, target in cases:
        contenders = list(contenders_of(options, size, batch))
        if options.dry_run:
            print("\n".join(" ".join(contender.command) for contender in contenders))
            continue
        ours = [contender for contender in contenders if contender.name.startswith("ours")]
        peers = [contender for contender in contenders if contender not in ours]
        rows.append(row_of(size, batch, target, ours, peers))
        for _ in range(options.rounds):
            for contender in contenders:
                left = options.seconds - (time.monotonic() - begin)
                if left > 0:
                    contender.run(min(options.limit, left))
                rows[-1] = row_of(size, batch, target, ours, peers)
                report(options, rows)
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    if not options.dry_run:
        report(options, rows, final=True)


if __name__ == "__main__":
    main()
