#!/usr/bin/env python3
"""The figures of a folder that a bundle's gpu_check filled, as tables in Markdown: training steps, the comparison with
PyTorch beside its targets, kernels. Python's standard library only. What is not there is left out.

usage: gpu_report.py FOLDER
"""
import json
import pathlib
import sys


def load(path):
    """The document, or None where the file is cut short: a part may have been stopped while it wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def cell(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"
    return str(value)


def table(title, columns, rows):
    if not rows:
        return
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(cell(value) for value in row)} |")


def steps(folder):
    rows = []
    for path in sorted(folder.glob("step_*.json")):
        step = load(path)
        if step:
            rows.append([step["size"], step["batch"], step["precision"], step["median_ms"], step["images_per_s"],
                         step["tflops"], step["mfu"] and 100 * step["mfu"], step["peak_bytes"] / 2 ** 30])
    table("Training steps", ["model", "batch", "precision", "ms", "images/s", "TFLOP/s", "MFU %", "peak GiB"], rows)


def comparison(folder):
    report = load(folder / "compare_step.json") if (folder / "compare_step.json").exists() else None
    rows = [[row["size"], row["batch"], row["ours_ms"], row.get("best_peer_ms"), row.get("best_peer"), row.get("ratio"),
             row["target"], row.get("ratio_to_eager"), "; ".join(f"{k}: {v}" for k, v in row["peer_errors"].items())]
            for row in (report or {}).get("cases", [])]
    table("Beside PyTorch", ["model", "batch", "ours ms", "peer ms", "peer", "ratio", "target", "over eager", "failed"], rows)


def kernels(folder):
    """Each benchmark's rows as they are: its own keys are the columns."""
    for path in sorted(folder.glob("cuda_*_bench.json")):
        found = load(path)
        if isinstance(found, dict):
            found = next((value for value in found.values() if isinstance(value, list)), [])
        found = [row for row in found or [] if isinstance(row, dict)]
        columns = list(dict.fromkeys(key for row in found for key, value in row.items() if not isinstance(value, (list, dict))))
        table(path.stem, columns, [[row.get(column) for column in columns] for row in found])


def main():
    folder = pathlib.Path(sys.argv[1])
    steps(folder)
    comparison(folder)
    kernels(folder)


if __name__ == "__main__":
    main()
