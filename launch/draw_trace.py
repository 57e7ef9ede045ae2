#!/usr/bin/env python3
"""Draws one step of merged traces as schedule charts: a lane per rank, passes in colour with their micro-batch, idle grey.

usage: launch/draw_trace.py -o CHART.svg [--step N] [--axis pp] TRACE.json[=TITLE] ...

Traces are what `shardit train --trace FILE` writes. Charts stand one below the other on one time scale, each from the
step's first pass to its last. Without --step it draws, of the steps that all ranks have, the one of median length.
--axis draws one rank for each coordinate of that mesh axis, those at 0 on the other axes: the other pipelines look
alike. Parts of a rank go from light to dark. Needs Python 3.8 and nothing else.
"""
import argparse
import json
import pathlib
import re
import sys
from xml.sax.saxutils import escape

PASSES = {  # category of an event -> (colour of part 0, name)
    "forward": ("#5b9bd5", "forward"),
    "backward": ("#6fbf73", "backward"),
    "weights": ("#f0a04b", "weight gradients"),
}
IDLE, INK, FAINT = "#e4e4e4", "#222222", "#777777"
WIDTH, MARGIN, LABEL = 1200, 16, 64  # of the drawing; around it; of the lanes' names
LANE, GAP, TITLE, LEGEND = 26, 3, 30, 34


def fail(message):
    sys.exit(f"draw_trace: {message}")


class Chart:
    """The passes of one step: by rank, (category, begin, end, part, micro-batch) in microseconds from its first pass."""

    def __init__(self, title, lanes):
        self.title = title
        begin = min(p[1] for _, passes in lanes for p in passes)
        self.lanes = [(label, [(c, b - begin, e - begin, part, mb) for c, b, e, part, mb in passes])
                      for label, passes in lanes]
        self.length = max(p[2] for _, passes in self.lanes for p in passes)
        self.parts = 1 + max(p[3] for _, passes in self.lanes for p in passes)

    def busy(self):
        return sum(e - b for _, passes in self.lanes for _, b, e, _, _ in passes)

    def bubble(self):
        return self.length * len(self.lanes) / self.busy() - 1


def selected(label, axis):
    """Whether the rank of this label, such as "rank 3 (pp=1 dp=0 tp=1)", stands at 0 on all axes but `axis`."""
    return all(name == axis or value == "0" for name, value in re.findall(r"(\w+)=(\d+)", label))


def load(path, title, step, axis):
    try:
        trace = json.loads(pathlib.Path(path).read_text())
        events = trace["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path}: not a merged trace: {error}")
    labels = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    ranks = sorted(r for r in labels if axis is None or selected(labels[r], axis))
    passes = {}  # step -> rank -> passes
    for event in events:
        if event["ph"] == "X" and event.get("cat") in PASSES and event["pid"] in ranks:
            args = event["args"]
            passes.setdefault(args["step"], {}).setdefault(event["pid"], []).append(
                (event["cat"], event["ts"], event["ts"] + event["dur"], args.get("part", 0), args.get("micro_batch")))
    whole = [s for s in passes if len(passes[s]) == len(ranks)]
    if not ranks or not whole:
        fail(f"{path}: no step with passes on all of its {len(ranks)} ranks")
    if step is not None and step not in whole:
        fail(f"{path}: no step {step}; it has {', '.join(map(str, sorted(whole)))}")
    charts = [Chart(title, [(f"rank {rank}", passes[s][rank]) for rank in ranks])
              for s in (whole if step is None else [step])]
    return sorted(charts, key=lambda chart: chart.length)[len(charts) // 2]


def darker(colour, part, parts):
    """The colour of a part: from its category's, down to 65% of its brightness."""
    factor = 1 - (0.35 * part / (parts - 1) if parts > 1 else 0)
    return "#" + "".join(f"{round(int(colour[i:i + 2], 16) * factor):02x}" for i in (1, 3, 5))


class Drawing:
    def __init__(self):
        self.shapes = []

    def rectangle(self, x, y, width, height, fill, tip=None):
        inner = f"<title>{escape(tip)}</title>" if tip else ""
        self.shapes.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}">'
                           f'{inner}</rect>')

    def text(self, x, y, content, size, fill=INK, anchor="start", weight="normal"):
        self.shapes.append(f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
                           f'font-weight="{weight}">{escape(content)}</text>')

    def svg(self, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
                f'height="{height}" font-family="Helvetica, Arial, sans-serif">\n'
                f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(self.shapes) + "\n</svg>\n")


def draw_chart(drawing, chart, top, scale):
    summary = f"{chart.length / 1e3:.1f} ms, idle over busy time {chart.bubble():.3f}"
    drawing.text(MARGIN, top + 20, chart.title, 15, weight="bold")
    drawing.text(WIDTH - MARGIN, top + 20, summary, 13, FAINT, "end")
    left = MARGIN + LABEL
    for lane, (label, passes) in enumerate(chart.lanes):
        y = top + TITLE + lane * (LANE + GAP)
        drawing.text(left - 8, y + LANE * 0.68, label, 12, FAINT, "end")
        drawing.rectangle(left, y, chart.length * scale, LANE, IDLE)
        for category, begin, end, part, micro_batch in passes:
            colour, name = PASSES[category]
            width = (end - begin) * scale
            tip = f"{name}, micro-batch {micro_batch}, part {part}: {begin / 1e3:.2f} to {end / 1e3:.2f} ms"
            drawing.rectangle(left + begin * scale, y, max(width - 0.7, 0.3), LANE, darker(colour, part, chart.parts), tip)
            number = "" if micro_batch is None else str(micro_batch)
            if width >= 7 * len(number) + 2:
                drawing.text(left + (begin + end) / 2 * scale, y + LANE * 0.68, number, 12, "#ffffff", "middle")


def draw(charts):
    drawing = Drawing()
    scale = (WIDTH - 2 * MARGIN - LABEL) / max(chart.length for chart in charts)
    top = MARGIN
    for chart in charts:
        draw_chart(drawing, chart, top, scale)
        top += TITLE + len(chart.lanes) * (LANE + GAP) + 12
    x = MARGIN + LABEL
    for colour, name in [*PASSES.values(), (IDLE, "idle")]:
        drawing.rectangle(x, top, 16, 16, colour)
        drawing.text(x + 22, top + 13, name, 13)
        x += 46 + 7.5 * len(name)
    drawing.text(WIDTH - MARGIN, top + 13, "numbers: micro-batches", 13, FAINT, "end")
    return drawing.svg(top + LEGEND)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="the SVG file to write")
    parser.add_argument("--step", type=int)
    parser.add_argument("--axis", help="a mesh axis: pp, dp or tp")
    parser.add_argument("traces", nargs="+", metavar="TRACE.json[=TITLE]")
    options = parser.parse_args()
    charts = []
    for argument in options.traces:
        path, _, title = argument.partition("=")
        charts.append(load(path, title or pathlib.Path(path).stem, options.step, options.axis))
    pathlib.Path(options.output).write_text(draw(charts))


if __name__ == "__main__":
    main()
