#!/usr/bin/python3
"""Times layouts of one run on this machine and sets the planner's choice beside them.

For every world size the layout that `shardit plan --layout auto` chooses is trained, and so are the layouts below, all
with the same model and global batch; rounds alternate, so that a disturbance meets all of them. Prints a table of
median step times (planned, measured) and writes JSON.

usage: compare_layouts.py --shardit BIN [--size DiT-S/8] [--batch 32] [--steps 8] [--rounds 2] [--worlds 2,4,8]
                          [--json OUT] [--mpirun CMD...]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile


# Fields of `parallel`, and the micro-batch where it is not the configuration's choice.
LAYOUTS = {
    2: ["dp=2", "dp=2 zero_stage=1", "dp=2 zero_stage=3", "tp=2", "tp=2 sequence_parallel=true", "pp=2",
        "pp=2 schedule=ZERO_BUBBLE_H1", "pp=2 schedule=INTERLEAVED virtual_stages=2"],
    4: ["dp=4", "dp=4 zero_stage=1", "dp=4 zero_stage=2", "dp=2 tp=2", "dp=2 pp=2", "dp=2 pp=2 zero_stage=1", "tp=2 pp=2",
        "pp=4", "dp=2 tp=2 sequence_parallel=true"],
    8: ["dp=8", "dp=8 zero_stage=1", "dp=4 tp=2", "dp=4 pp=2", "dp=4 pp=2 zero_stage=1", "dp=2 tp=2 pp=2", "dp=2 pp=4"],
}


def write_data(path, side, channels):
    import h5py
    import numpy
    rng = numpy.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["latents"] = rng.standard_normal((256, channels, side, side)).astype("f4")
        file["labels"] = (numpy.arange(256) % 1000).astype("i4")


def sets(layout):
    return [part for field in layout.split() for part in
            ("--set", ("" if field.startswith("train.") else "parallel.") + field)]


def chosen(args, config, world):
    out = subprocess.run([args.shardit, "plan", "--config", config, "--world", str(world), "--layout", "auto", "--json"],
                         check=True, capture_output=True, text=True).stdout
    layout = json.loads(out)["layout"]
    fields = [f"{key}={str(layout[key]).lower() if isinstance(layout[key], bool) else layout[key]}"
              for key in ("dp", "tp", "pp", "zero_stage", "sequence_parallel", "schedule", "virtual_stages", "recompute")]
    return " ".join(fields + [f"train.micro_batch={layout['micro_batch']}"])


def planned_ms(args, config, world, layout):
    out = subprocess.run([args.shardit, "plan", "--config", config, "--world", str(world), "--json"] + sets(layout),
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["step"]["step_ms"]


def measure(args, config, world, layout, folder):
    run = tempfile.mkdtemp(dir=folder)
    command = args.mpirun + ["-n", str(world), args.shardit, "train", "--config", config, "--out", run] + sets(layout)
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in pathlib.Path(run, "metrics.jsonl").read_text().splitlines()]
    return [row["step_ms"] for row in rows[2:]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shardit", required=True)
    parser.add_argument("--size", default="DiT-S/8")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worlds", default="2,4,8")
    parser.add_argument("--json")
    parser.add_argument("--mpirun", nargs=argparse.REMAINDER,
                        default="mpirun --quiet --allow-run-as-root --oversubscribe --bind-to none".split())
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_data(os.path.join(folder, "data.h5"), 32, 4)
        config = os.path.join(folder, "run.textproto")
        pathlib.Path(config).write_text(
            f'model {{ size: "{args.size}" }} data {{ path: "{folder}/data.h5" }} '
            f"train {{ steps: {args.steps + 2} global_batch: {args.batch} }} checkpoint {{ every_steps: 0 }} "
            "log { every_steps: 1 tensorboard: false }\n")
        for world in map(int, args.worlds.split(",")):
            auto = chosen(args, config, world)
            layouts = [auto] + LAYOUTS[world]
            times = {layout: [] for layout in layouts}
            for _ in range(args.rounds):
                for layout in layouts:
                    times[layout] += measure(args, config, world, layout, folder)
            print(f"world {world}: auto is {auto}\n{'planned ms':>12} {'median ms':>10} {'least ms':>9}  layout")
            for layout in sorted(layouts, key=lambda each: statistics.median(times[each])):
                row = {"world": world, "layout": layout, "auto": layout == auto,
                       "planned_ms": planned_ms(args, config, world, layout),
                       "median_ms": statistics.median(times[layout]), "min_ms": min(times[layout])}
                results.append(row)
                print(f"{row['planned_ms']:12.1f} {row['median_ms']:10.1f} {row['min_ms']:9.1f}  {layout}"
                      f"{'   <- auto' if row['auto'] else ''}", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
