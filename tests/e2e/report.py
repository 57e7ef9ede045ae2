#!/usr/bin/env python3
"""shardit report: one page that holds everything, whatever became of the runs, and inert whatever they are called."""
import base64
import csv
import html.parser
import json
import math
import os
import pathlib
import shutil
import struct
import xml.etree.ElementTree
import zlib

import numpy

from harness import Harness

HOSTILE = ("50% %s x\"><script>alert(1)</script><img src=http://a.example/b onerror=alert(2)>'`touch pwned`'"
           "$(touch pwned)\n@=1]]>&")
VOID = {"meta", "img", "br"}
FIT = ["factor", "exponent", "log_factor_error", "exponent_error"]


class Page(html.parser.HTMLParser):
    """What a browser sees: tags in balance, text, where things are loaded from, ids."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.text, self.tags, self.sources, self.ids, self.handlers = [], [], [], [], [], []
        self.unbalanced = False
        self.feed(text)
        self.close()
        self.unbalanced = self.unbalanced or bool(self.stack)

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def note(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.sources.append(value)
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced = True

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)


def png():
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes(range(8)) for _ in range(8))
    return (b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) +
            part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b""))


def evaluation(step, score, **others):
    return {"step": step, "images": 64 * step, "grid": f"{step:07d}.png", "fd": score,
            "fd_interval": [0.95 * score, 1.05 * score], "sfd": 2 * score, "is": 5.5, "precision": 0.61, "recall": 0.42,
            "n": 2000, "n_reference": 10000, "extractor": {"sha256": "ab" * 32, "resize": "none"},
            "samples": {"kind": "model", "sha256": "cd" * 32, "step": step, "weights": "ema", "sampler": "ddim",
                        "steps": 50, "eta": 0.0, "cfg_scale": 1.0, "cfg_channels": 3, "seed": 0},
            "reference": {"path": "test.h5", "kind": "images", "sha256": "ef" * 32}, **others}


def run_of(name, width, patch, conditioning="ADALN_ZERO", **others):
    gmacs = 1e-4 * width ** 1.9 / patch ** 1.7
    score = 40 * gmacs ** -0.3 * (1 + 0.01 * (width % 7)) * (1 if conditioning == "ADALN_ZERO" else 1.2)
    return {"name": name, "model": f"W{width}", "depth": 4, "width": width, "heads": 4, "patch": patch,
            "conditioning": conditioning, "seed": 0, "parameters": 18 * width ** 2, "gmacs_forward": gmacs,
            "steps": 1600, "steps_done": 1600, "images": 102400, "state": "finished", "exit_code": 0, "message": "",
            "attempts": 1, "train_seconds": 360.0, "final_loss": 0.31, "validation_loss": 0.33,
            "evaluations": [evaluation(800, 1.5 * score), evaluation(1600, score)], **others}


def nine_runs():
    runs = [run_of(f"W{width}-p{patch}-adaln_zero-s0", width, patch) for width in (64, 96, 144) for patch in (2, 4, 8)]
    runs += [run_of("W96-p4-adaln-s0", 96, 4, "ADALN"),
             run_of("W64-p4-late-s0", 64, 4, state="missing", exit_code=None, steps_done=0, attempts=0, evaluations=[]),
             run_of("W64-p4-ill-s0", 64, 4, state="failed", exit_code=77, message="loss is not finite", evaluations=[]),
             run_of("W64-p4-cut-s0", 64, 4, state="interrupted", exit_code=75, steps_done=900,
                    evaluations=[evaluation(800, 99.0)])]
    return runs


def write_study(folder, runs, **others):
    folder.mkdir(parents=True)
    settings = {"sampler": "ddim", "steps": 50, "samples": 2000, "extractor": {"sha256": "ab" * 32, "resize": "none"}}
    document = {"kind": "sweep", "name": "grid of nine", "budget": {"images": 102400}, "settings": settings,
                "runs": runs}
    (folder / "results.json").write_text(json.dumps({**document, **others}))
    for run in runs:
        if "/" in run["name"] or not run["evaluations"]:
            continue
        files = folder / "runs" / run["name"]
        (files / "evaluation").mkdir(parents=True)
        rows = [{"step": s, "images": 64 * s, "loss": s ** -0.3} for s in (1, 400, 800, 1600)]
        (files / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 17')
        for each in run["evaluations"]:
            (files / "evaluation" / f"{each['step']:07d}.png").write_bytes(png())


def write_scaling(folder, name="eight ranks"):
    folder.mkdir(parents=True, exist_ok=True)
    points = [{"name": f"{mode}-w{world}", "series": mode, "mode": mode, "world": world, "dp": world, "tp": 1, "pp": 1,
               "global_batch": 64, "state": "finished" if world < 8 else "failed",
               "message": "" if world < 8 else "hang",
               "step_ms": 100.0, "step_ms_interval": [98, 103], "images_per_s": 400.0 * world ** 0.9,
               "efficiency": world ** -0.1, "speedup": world ** 0.9, "planned": {"images_per_s": 410.0 * world}}
              for mode in ("weak", "strong") for world in (1, 2, 4, 8)]
    (folder / "scaling.json").write_text(json.dumps({"kind": "scaling", "name": name, "settings": {"model": "DiT-S/8"},
                                                     "points": points}))


def report(t, folder, *arguments, code=0):
    done = t.run("report", folder, *arguments)
    t.expect(done.returncode == code, f"report {folder.name} {arguments}: exit code {done.returncode}: {done.stderr}")
    return done


def check_page(t, text, what):
    """One file of its own: nothing from outside, nothing that runs, every id once."""
    page = Page(text)
    t.expect(not page.unbalanced, f"{what}: tags are not balanced")
    t.expect("script" not in page.tags and not page.handlers, f"{what}: scripts, {page.handlers}")
    inside = [source for source in page.sources if source.startswith(("data:image/png;base64,", "#"))]
    t.expect(inside == page.sources, f"{what}: loads {set(page.sources) - set(inside)}")
    t.expect(len(set(page.ids)) == len(page.ids), f"{what}: the same id twice")
    references = [source[1:] for source in page.sources if source.startswith("#")]
    t.expect(set(references) <= set(page.ids), f"{what}: references to no id")
    return page


def check_svg(t, path):
    tags = {element.tag for element in xml.etree.ElementTree.parse(path).getroot().iter()}
    t.expect("{http://www.w3.org/2000/svg}text" in tags, f"{path.name}: no text in {tags}")
    t.expect(not any("script" in tag or "image" in tag for tag in tags), f"{path.name}: {tags}")


def check_whole_study(t):
    folder = t.folder / "study"
    runs = nine_runs()
    write_study(folder, runs)
    write_scaling(folder / "scaling")
    done = report(t, folder)
    t.expect("10 of 13 runs finished (1 failed, 1 interrupted, 1 missing)" in done.stdout, f"summary: {done.stdout}")
    text = (folder / "report" / "report.html").read_text()
    page = check_page(t, text, "page")
    words = " ".join(page.text)
    for run in runs:
        t.expect(words.count(run["name"]) >= 2, f"page: {run['name']} is not in both tables")
    for expected in ["grid of nine", "loss is not finite", "eight ranks", "ab" * 32, "n = 9", "2,000 / 10,000",
                     "Gflops as in the paper, i.e. multiply-accumulates", "not drawn beside them", "shardit report"]:
        t.expect(expected in words, f"page: no {expected!r}")
    t.expect(text.count('<tr class="unfinished">') == 5, "page: unfinished runs and points are not marked")
    t.expect(page.tags.count("svg") == 7, f"page: {page.tags.count('svg')} figures")
    shown = [base64.b64decode(source.partition(",")[2]) for source in page.sources if source.startswith("data:")]
    t.expect(shown == [png()] * 11, f"page: {len(shown)} pictures")
    figures = sorted(path.name for path in (folder / "report" / "figures").iterdir())
    t.expect(figures == ["designs.svg", "loss_curves.svg", "paper.svg", "scaling_strong.svg", "scaling_weak.svg",
                         "score_by_compute.svg", "score_by_gflops.svg"], f"figures: {figures}")
    for name in figures:
        check_svg(t, folder / "report" / "figures" / name)
    report(t, folder)
    t.expect((folder / "report" / "report.html").read_text() == text, "page: another one from the same study")


def least_squares(x, y):
    """Fit and errors by the normal equations."""
    design = numpy.stack([numpy.ones_like(x), x], axis=1)
    inverse = numpy.linalg.inv(design.T @ design)
    intercept, slope = inverse @ design.T @ y
    residual = y - intercept - slope * x
    errors = numpy.sqrt(numpy.diag(inverse) * (residual @ residual) / (len(x) - 2))
    return [math.exp(intercept), slope, errors[0], errors[1]]


def check_numbers(t):
    done = report(t, t.folder / "study", "--json")
    document = json.loads(done.stdout)
    written = json.loads((t.folder / "study" / "report" / "report.json").read_text())
    t.expect(document == written, "--json: not the file")
    relation = document["sweeps"][0]["score_by_gflops"]
    grid = [run for run in nine_runs() if run["conditioning"] == "ADALN_ZERO" and run["state"] == "finished"]
    x = numpy.log([run["gmacs_forward"] for run in grid])
    y = numpy.log([run["evaluations"][-1]["fd"] for run in grid])
    t.expect(numpy.allclose([relation["law"][key] for key in FIT], least_squares(x, y), rtol=1e-9), f"law: {relation}")
    for key, scores in (("pearson_log_log", y), ("pearson_log_linear", numpy.exp(y))):
        r = numpy.corrcoef(x, scores)[0, 1]
        interval = numpy.tanh(numpy.arctanh(r) + numpy.array([-1, 1]) * 1.959963984540054 / math.sqrt(6))
        t.expect(numpy.allclose([relation[key]["r"], *relation[key]["interval"]], [r, *interval], rtol=1e-9),
                 f"{key}: {relation[key]}")
        t.expect(relation[key]["n"] == 9, f"{key}: {relation[key]}")
    designs = document["sweeps"][0]["designs"]
    t.expect([[run["conditioning"] for run in group["runs"]] for group in designs] == [["adaln_zero", "adaln"]],
             f"designs: {designs}")
    t.expect(abs(document["paper"]["score_by_gflops"]["pearson_log_linear"]["r"] + 0.93) < 0.005, "the paper's points")


def check_csv(t):
    with open(t.folder / "study" / "report" / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    runs = nine_runs()
    t.expect(len(rows) == sum(max(1, len(run["evaluations"])) for run in runs), f"csv: {len(rows)} rows")
    t.expect({row["run"] for row in rows} == {run["name"] for run in runs}, "csv: other runs")
    best = [row for row in rows if row["run"] == runs[0]["name"] and row["evaluated_step"] == "1600"][0]
    t.expect(float(best["fd"]) == runs[0]["evaluations"][-1]["fd"], f"csv: fd {best['fd']}")
    t.expect(float(best["fd_high"]) == runs[0]["evaluations"][-1]["fd_interval"][1], f"csv: {best['fd_high']}")
    t.expect(best["fid"] == "" and best["state"] == "finished", f"csv: {best}")


def check_hostile(t):
    """Names from files run nowhere: not in the page, not in gnuplot, not in a shell, not in a spreadsheet."""
    folder = t.folder / "hostile"
    runs = nine_runs()
    for index, run in enumerate(runs):
        run["model"] = f"{HOSTILE}{run['width']}"
        run["message"] = HOSTILE
        run["name"] = f"=cmd|' /C calc'!A{index}/../{HOSTILE}"
    runs[-4]["conditioning"] = HOSTILE
    write_study(folder, runs, name=HOSTILE, settings={HOSTILE: HOSTILE, "deep": {"er": [1, {"x": 2}]}})
    write_scaling(folder, name=HOSTILE)
    report(t, folder)
    text = (folder / "report" / "report.html").read_text()
    page = check_page(t, text, "hostile page")
    t.expect("alert(1)" in " ".join(page.text), "hostile page: the names are gone")
    figures = {path.name for path in (folder / "report" / "figures").iterdir()}
    t.expect({"designs.svg", "score_by_gflops.svg", "scaling_weak.svg"} <= figures, f"hostile figures: {figures}")
    t.expect("50% %s x" in (folder / "report" / "figures" / "designs.svg").read_text(), "hostile figure: no %")
    for path in (folder / "report" / "figures").iterdir():
        check_svg(t, path)
    with open(folder / "report" / "report.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    t.expect(not any(cell.startswith(("=", "@", "\t")) for cell in cells), "hostile csv: a formula")
    t.expect(not list(t.folder.rglob("*pwned*")) and not pathlib.Path("pwned").exists(), "a shell ran a name")


def check_broken(t):
    """What is damaged costs what it held, and is said."""
    folder = t.folder / "broken"
    runs = nine_runs()
    del runs[0]["gmacs_forward"], runs[1]["name"], runs[2]["evaluations"]
    runs[3].update({"width": "wide", "state": 7, "gmacs_forward": -1, "steps": 1e300, "evaluations": [3, None, {}]})
    runs[4]["evaluations"][-1].update({"fd": None, "fd_interval": [3, 1], "grid": 4})
    runs[5]["evaluations"][-1].update({"n": 50000})
    runs[6]["evaluations"][-1].update({"fd": 1e300, "fd_interval": [-1e300, 1e308]})
    runs[7].update({"gmacs_forward": 1e-300, "parameters": 1e300, "train_seconds": 1e300})
    document = {"kind": "sweep", "runs": [*runs, 5, None]}
    evaluations = folder / "runs" / runs[8]["name"] / "evaluation"
    evaluations.mkdir(parents=True)
    (evaluations / "0001600.png").write_text("<svg>no picture</svg>")
    (folder / "results.json").write_text(json.dumps(document))
    (folder / "other").mkdir()
    (folder / "other" / "results.json").write_text("{")
    done = report(t, folder)
    t.expect("not JSON" in done.stderr, f"broken: no warning in {done.stderr}")
    words = " ".join(check_page(t, (folder / "report" / "report.html").read_text(), "broken page").text)
    sweep = json.loads((folder / "report" / "report.json").read_text())["sweeps"][0]
    left_out = [each for run in sweep["runs"] for each in run["evaluations"] if not each["comparable"] and "fd" in each]
    t.expect(len(left_out) == 1 and left_out[0]["n"] == 50000, f"broken: left out {left_out}")
    for expected in ["(no name)", "not JSON", "left out of figures and fits: 1.", f"{runs[5]['name']} †",
                     "picture of samples is missing", "is not a PNG file", "W144-p4-adaln_zero-s0"]:
        t.expect(expected in words, f"broken page: no {expected!r}")


def check_references(t):
    """Scores against another reference are other quantities, whatever its path; the documents are evaluate's own."""
    folder = t.folder / "references"
    runs = nine_runs()[:4]
    write_study(folder, runs)
    random = numpy.random.default_rng(0)
    for name in ("samples", "first", "second"):
        numpy.savez(folder / f"{name}.npz", mu=random.standard_normal(4), sigma=numpy.eye(4))
    shutil.copy(folder / "first.npz", folder / "moved.npz")
    for run, reference in zip(runs, ("first", "moved", "second", "first")):
        done = t.run("evaluate", "--samples", folder / "samples.npz", "--reference", folder / f"{reference}.npz",
                     "--json")
        t.expect(done.returncode == 0, f"evaluate: {done.stderr}")
        run["evaluations"] = [{"step": 1600, "images": 102400, **json.loads(done.stdout)}]
    (folder / "results.json").write_text(json.dumps({"kind": "sweep", "name": "references", "runs": runs}))
    report(t, folder)
    sweep = json.loads((folder / "report" / "report.json").read_text())["sweeps"][0]
    comparable = [run["evaluations"][0]["comparable"] for run in sweep["runs"]]
    t.expect(comparable == [True, True, False, True], f"references: {comparable}")
    t.expect(sweep["evaluations_left_out"] == 1, f"references: {sweep['evaluations_left_out']} left out")


def check_outside(t):
    """Documents and links of a study name no file elsewhere on the machine."""
    outside = t.folder / "outside"
    (outside / "evaluation").mkdir(parents=True)
    for picture in (outside / "secret.png", outside / "evaluation" / "secret.png"):
        picture.write_bytes(png())
    (outside / "metrics.jsonl").write_text('{"images": 64, "loss": 0.5}\n{"images": 128, "loss": 0.4}\n')
    folder = t.folder / "inside"
    grids = ["secret.png", f"{outside}/secret.png", "../../../outside/secret.png", "../outside/secret.png",
             "secret.png", "link.png", f"{folder}/own.png"]
    folders = [str(outside), "", "", "", "../outside", "", ""]
    runs = [run_of(f"run{index}", 64, 4, evaluations=[evaluation(1600, 9.0, grid=grid)], folder=stated)
            for index, (grid, stated) in enumerate(zip(grids, folders))]
    write_study(folder, runs)
    shutil.rmtree(folder / "runs")
    (folder / "runs" / "run5" / "evaluation").mkdir(parents=True)
    (folder / "runs" / "run5" / "evaluation" / "link.png").symlink_to(outside / "secret.png")
    (folder / "runs" / "run2").symlink_to(outside)
    (folder / "own.png").write_bytes(png())
    done = report(t, folder)
    page = check_page(t, (folder / "report" / "report.html").read_text(), "inside page")
    shown = [source for source in page.sources if source.startswith("data:")]
    t.expect(len(shown) == 1, f"outside: {len(shown)} pictures, expected the study's own one")
    t.expect(not (folder / "report" / "figures" / "loss_curves.svg").exists(), "outside: a loss curve")
    t.expect(" ".join(page.text).count("the picture of samples lies outside the study's folder") == 6,
             f"outside: {page.text}")
    for name in ("run0", "run2", "run4"):
        t.expect(f"{name}: metrics.jsonl lies outside the study's folder" in done.stderr, f"outside: {done.stderr}")


def check_bytes(t):
    """Folders whose names are no UTF-8."""
    name = os.fsdecode(b"bad\xff")
    write_study(t.folder / name / name, nine_runs())
    for folder in (t.folder / name / name, t.folder / name):
        document = json.loads(report(t, folder, "--json").stdout)
        shown = document["sweeps"][0]["folder"]
        t.expect(shown.endswith("bad\ufffd/bad\ufffd"), f"bytes: {shown}")
        written = json.loads((folder / "report" / "report.json").read_text())
        t.expect(written == document, "bytes: the file is another one")
        check_page(t, (folder / "report" / "report.html").read_text(), "bytes page")


def check_scaling(t):
    """Two series along one axis are two curves, and the figure says what the table says."""
    folder = t.folder / "curves"
    folder.mkdir()
    points = [{"name": f"{series}-w{world}", "series": series, "mode": "strong", "world": world, "dp": world, "tp": 1,
               "pp": 1, "state": "finished", "images_per_s": speed, "efficiency": efficiency}
              for series, world, speed, efficiency in (("plain", 1, 100.0, 1.0), ("plain", 2, 180.0, 0.9),
                                                       ("small", 1, 30.0, 1.0), ("small", 2, 45.0, 0.75))]
    (folder / "scaling.json").write_text(json.dumps({"kind": "scaling", "points": points}))
    report(t, folder)
    drawn = (folder / "report" / "figures" / "scaling_strong.svg").read_text()
    check_svg(t, folder / "report" / "figures" / "scaling_strong.svg")
    t.expect("plain" in drawn and "small" in drawn and "planned" not in drawn, "curves: the key")
    stored = json.loads((folder / "report" / "report.json").read_text())["scalings"][0]["points"]
    t.expect([point["series"] for point in stored] == ["plain", "small", "plain", "small"], f"curves: {stored}")


def check_empty(t):
    folder = t.folder / "empty"
    write_study(folder, [])
    report(t, folder)
    page = check_page(t, (folder / "report" / "report.html").read_text(), "empty page")
    words = " ".join(page.text)
    for expected in ["no runs", "No run has logged a loss", "0 of 0 runs finished"]:
        t.expect(expected in words, f"empty page: no {expected!r}")
    t.expect(page.tags.count("svg") == 1, "empty page: figures other than the paper's")


def check_fid(t):
    """FID stands beside the paper's; another study in a subfolder is told apart by its figures' names."""
    folder = t.folder / "fid"
    runs = nine_runs()
    for run in runs:
        for each in run["evaluations"]:
            each["fid"], each["fid_interval"] = each.pop("fd"), each.pop("fd_interval")
    write_study(folder / "first", runs)
    write_study(folder / "second", runs[:4])
    report(t, folder, "--out", folder / "page.html", "--figures", folder / "svg")
    page = check_page(t, (folder / "page.html").read_text(), "fid page")
    t.expect("drawn beside them" in " ".join(page.text) and "not drawn beside" not in " ".join(page.text), "fid page")
    drawn = (folder / "svg" / "study1_paper.svg").read_text()
    t.expect("this study" in drawn, "fid: this study is not beside the paper's")
    t.expect((folder / "svg" / "study2_score_by_gflops.svg").exists() and (folder / "page.csv").exists(), "fid: files")


def check_without_gnuplot(t):
    path = os.environ["PATH"]
    os.environ["PATH"] = str(t.folder / "nothing")
    shutil.rmtree(t.folder / "study" / "report")
    done = report(t, t.folder / "study")
    os.environ["PATH"] = path
    t.expect("gnuplot-nox" in done.stderr and done.stderr.count("gnuplot") == done.stderr.count("gnuplot-nox") + 1,
             f"without gnuplot: {done.stderr}")
    page = check_page(t, (t.folder / "study" / "report" / "report.html").read_text(), "page without gnuplot")
    t.expect("svg" not in page.tags and page.tags.count("table") >= 5, "page without gnuplot: figures, or no tables")
    t.expect("gnuplot is not in PATH" in " ".join(page.text), "page without gnuplot: does not say so")


def check_errors(t):
    (t.folder / "bare").mkdir()
    for folder, arguments, code, words in [(t.folder / "none", [], 65, "none"),
                                           (t.folder / "bare", [], 65, "no results.json or scaling.json"),
                                           (t.folder / "study", ["--out", "page.pdf"], 64, ".html"),
                                           (t.folder / "broken" / "other", [], 65, "not JSON")]:
        done = report(t, folder, *arguments, code=code)
        t.expect(words in done.stderr and done.stderr.count("\n") == 1, f"report {folder.name}: {done.stderr}")
        t.expect(done.stdout == "", f"report {folder.name}: {done.stdout}")


def main():
    t = Harness()
    check_whole_study(t)
    check_numbers(t)
    check_csv(t)
    check_hostile(t)
    check_broken(t)
    check_references(t)
    check_outside(t)
    check_bytes(t)
    check_scaling(t)
    check_empty(t)
    check_fid(t)
    check_without_gnuplot(t)
    check_errors(t)
    t.finish()


if __name__ == "__main__":
    main()
