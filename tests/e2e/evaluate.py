"""Scores of samples from outside: against numpy on the same features, on any number of ranks, interrupted and gone on, from
files of other programs, and of inputs that are wrong."""
import json
import os
import signal
import struct
import subprocess
import time
import zlib

import h5py
import numpy

import harness

SIDE = 8
CLASSES = 3


def draw_images(count, seed, noise):
    """Labelled grey images [count, SIDE, SIDE] in [-1, 1]: three patterns of any strength, with noise."""
    random = numpy.random.default_rng(seed)
    labels = numpy.arange(count) % CLASSES
    ramp = numpy.linspace(-1, 1, SIDE)
    patterns = numpy.stack([numpy.outer(ramp, ramp), numpy.outer(ramp, -ramp), numpy.add.outer(ramp, ramp) / 2])
    strength = random.uniform(0.5, 1, (count, 1, 1))
    images = patterns[labels] * strength + random.normal(0, noise, (count, SIDE, SIDE))
    return numpy.clip(images, -1, 1).astype(numpy.float32), labels


def write_h5(path, images, labels):
    with h5py.File(path, "w") as file:
        file["latents"] = images[:, None]
        file["labels"] = labels
        file.attrs["classes"] = CLASSES
    return path


def to_bytes(images):
    """The sampler's rule, in float32 as there."""
    return numpy.clip(images * numpy.float32(127.5) + numpy.float32(128), 0, 255).astype(numpy.uint8)[..., None]


def write_png(path, pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels[..., 0])
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) +
                     chunk(b"IEND", b""))


# The scores once more, from their definitions.
def frechet(a, b):
    a, b = a.astype(numpy.float64), b.astype(numpy.float64)
    cov_a, cov_b = numpy.cov(a, rowvar=False), numpy.cov(b, rowvar=False)
    roots = numpy.sqrt(numpy.maximum(numpy.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + numpy.trace(cov_a) + numpy.trace(cov_b) - 2 * roots


def inception_score(logits, split):
    scores = []
    for part in numpy.array_split(logits.astype(numpy.float64), max(1, len(logits) // split)):
        p = numpy.exp(part - part.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        scores.append(numpy.exp((p * (numpy.log(p) - numpy.log(p.mean(0)))).sum(1).mean()))
    return numpy.mean(scores), numpy.std(scores)


def precision(samples, reference, k):
    def squared(x, y):
        return ((x[:, None].astype(numpy.float64) - y[None].astype(numpy.float64)) ** 2).sum(-1)

    radii = numpy.sort(squared(reference, reference), 1)[:, k]  # column 0 is the vector itself
    return (squared(samples, reference) <= radii).any(1).mean()


class Scene:
    """The files that all parts use."""

    def __init__(self, test):
        self.test = test
        folder = test.folder
        self.reference_images, self.reference_labels = draw_images(300, 1, 0.2)
        self.sample_images, self.sample_labels = draw_images(260, 2, 0.3)
        self.sample_labels[:20] = (self.sample_labels[:20] + 1) % CLASSES  # asked for, but not drawn
        self.reference = write_h5(folder / "reference.h5", self.reference_images, self.reference_labels)
        self.samples = folder / "samples.npz"
        numpy.savez(self.samples, arr_0=to_bytes(self.sample_images), arr_1=self.sample_labels)
        self.extractor = folder / "extractor.safetensors"
        train = write_h5(folder / "train.h5", *draw_images(256, 3, 0.3))
        done = test.run("extractor", "train", "--data", train, "--out", self.extractor, "--epochs", "2", "--batch", "32")
        test.expect(done.returncode == 0, f"training the extractor: {done.stderr}")
        config = test.write_config("run.textproto", harness.SMALL_MODEL + f'data {{ path: "{train}" }}')
        done = test.run("train", "--config", config, "--out", folder / "run")
        test.expect(done.returncode == 0, f"training the model: {done.stderr}")
        self.run_folder = folder / "run"

    def evaluate(self, *arguments, ranks=0, rc=0, env=None, samples=None, reference=None):
        """Runs with --json; returns the document without seconds (None where it failed) and standard error."""
        command = [*self.test.mpirun, "-n", str(ranks)] if ranks else []
        command += [self.test.program, "evaluate", "--samples", samples or self.samples, "--reference",
                    reference or self.reference, "--extractor", self.extractor, "--json", *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600,
                              cwd=self.test.folder, check=False, env={**os.environ, **(env or {})})
        self.test.expect(done.returncode == rc, f"{arguments}: exit code {done.returncode}, expected {rc}: {done.stderr}")
        if done.returncode != 0:
            return None, done.stderr
        document = json.loads(done.stdout)
        document.pop("seconds")
        return document, done.stderr


def check_against_numpy(test, scene):
    report, _ = scene.evaluate("--write-features", "features.npz", "--write-statistics", "statistics.npz", "--is-split",
                               "130", "--k", "4", "--out", "report.json")
    with numpy.load(test.folder / "features.npz") as features:
        x, y = features["features"], features["reference_features"]
        expected = {"fd": frechet(x, y),
                    "sfd": frechet(features["spatial"], features["reference_spatial"]),
                    "precision": precision(x, y, 4), "recall": precision(y, x, 4),
                    "class_agreement": (features["logits"].argmax(1) == scene.sample_labels).mean(),
                    "reference_accuracy": (features["reference_logits"].argmax(1) == scene.reference_labels).mean()}
        expected["is"], expected["is_std"] = inception_score(features["logits"], 130)
        test.expect((features["labels"] == scene.sample_labels).all(), "labels of the samples")
        test.expect(x.shape == (260, report["extractor"]["feature_dim"]), f"shape of the features {x.shape}")
        mean, covariance = x.astype(numpy.float64).mean(0), numpy.cov(x.astype(numpy.float64), rowvar=False)
    for key, value in expected.items():
        test.expect(abs(report[key] - value) <= 1e-5 * max(abs(value), 1), f"{key} {report[key]}, numpy {value}")
    for key in ("fd", "sfd", "is", "precision", "recall", "class_agreement"):
        low, high = report[key + "_interval"]
        test.expect(low <= report[key] <= high and low < high, f"interval of {key}: {low} .. {high}, {report[key]}")
    test.expect(report["n"] == 260 and report["n_reference"] == 300, "numbers of images")
    test.expect(report["extractor"]["sha256"] and "fid" not in report, "a classifier's distance is not called FID")
    written = json.loads((test.folder / "report.json").read_text())
    written.pop("seconds")
    test.expect(written == report, "--out holds what --json prints")

    with numpy.load(test.folder / "statistics.npz") as statistics:
        test.expect(numpy.allclose(statistics["mu"], mean, rtol=1e-12, atol=1e-12), "mu")
        test.expect(numpy.allclose(statistics["sigma"], covariance, rtol=1e-9, atol=1e-9), "sigma")
        test.expect("sigma_s" in statistics, "spatial statistics")
    none = test.run("evaluate", "--samples", "statistics.npz", "--reference", "statistics.npz", "--json")
    test.expect(none.returncode == 0 and json.loads(none.stdout)["fd"] < 1e-6, f"a set and itself: {none.stderr}")
    test.expect(json.loads(none.stdout)["extractor"] is None, "no extractor is claimed for statistics")
    swapped, _ = scene.evaluate("--metrics", "fid", samples=scene.reference, reference="statistics.npz")
    test.expect(abs(swapped["fd"] - report["fd"]) < 1e-6, "the distance is symmetric, and from statistics the same")


def check_ranks(test, scene):
    one, _ = scene.evaluate()
    for ranks in (2, 3):
        many, _ = scene.evaluate(ranks=ranks)
        test.expect(many == one, f"{ranks} ranks give other scores")
    batched, _ = scene.evaluate("--batch", "7", "--threads", "2")
    test.expect(batched == one, "another batch gives other scores")
    fewer, _ = scene.evaluate("--num", "100", "--reference-num", "200")
    test.expect(fewer["n"] == 100 and fewer["n_reference"] == 200 and fewer["fd"] != one["fd"], "--num")


def check_sources(test, scene):
    """The same images in other clothes have the same scores."""
    pixels = to_bytes(scene.sample_images)
    scores = ("fd", "sfd", "is", "precision", "recall")
    expected, _ = scene.evaluate("--bootstrap", "0")
    test.expect("fd_interval" not in expected, "--bootstrap 0 has no intervals")
    packed = test.folder / "packed.npz"
    numpy.savez_compressed(packed, arr_0=pixels)
    folder = test.folder / "png"
    folder.mkdir()
    for i, image in enumerate(pixels):
        write_png(folder / f"{i:05d}.png", image)
    parts = test.folder / "parts"
    parts.mkdir()
    for i in range(0, len(pixels), 100):
        numpy.savez(parts / f"{i:05d}.npz", arr_0=pixels[i:i + 100])
    latents = write_h5(test.folder / "samples.h5", scene.sample_images, scene.sample_labels)
    for path in (packed, folder, parts, latents):
        report, _ = scene.evaluate("--bootstrap", "0", samples=path, ranks=2)
        for key in scores:
            test.expect(report[key] == expected[key], f"{path.name}: {key} {report[key]}, expected {expected[key]}")


DRAW = ("--num", "200", "--steps", "4", "--cfg-scale", "1.5", "--seed", "5")


def check_model(test, scene):
    drawn, _ = scene.evaluate(*DRAW, "--write-samples", "drawn.npz", "--grid", "grid.png", samples=scene.run_folder)
    samples = drawn["samples"]
    test.expect(samples["step"] == 4 and samples["weights"] == "ema" and samples["steps"] == 4 and
                samples["cfg_scale"] == 1.5 and samples["seed"] == 5, f"settings {samples}")
    done = test.run("sample", "--checkpoint", scene.run_folder, *DRAW, "--out", "sampled.npz")
    test.expect(done.returncode == 0, done.stderr)
    test.expect((test.folder / "drawn.npz").read_bytes() == (test.folder / "sampled.npz").read_bytes(),
                "what is drawn for the scores is what sample draws")
    with numpy.load(test.folder / "drawn.npz") as npz:
        test.expect(npz["arr_0"].shape == (200, SIDE, SIDE, 1) and npz["arr_0"].dtype == numpy.uint8, "arr_0")
        test.expect((npz["arr_1"] == numpy.arange(200) % CLASSES).all(), "arr_1")
    test.expect((test.folder / "grid.png").read_bytes()[:4] == b"\x89PNG", "the grid")
    of_file, _ = scene.evaluate(samples="sampled.npz")
    many, _ = scene.evaluate(*DRAW, samples=scene.run_folder, ranks=3)
    test.expect(many == drawn, "3 ranks draw other samples")
    for report in (drawn, of_file):
        report.pop("samples")
    test.expect(of_file == drawn, "scores of a checkpoint and of its samples' file")


def check_restarts(test, scene):
    whole, _ = scene.evaluate(*DRAW, samples=scene.run_folder)
    work = test.folder / "work"

    def chunks():
        return sorted(work.glob("*/chunk-*.features"))

    # Four chunks of samples. The first process dies behind the second.
    scene.evaluate(*DRAW, "--work", work, samples=scene.run_folder, rc=-signal.SIGKILL,
                   env={"SHARDIT_KILL_POINT": "evaluate.chunk_stored:2"})
    test.expect(len(chunks()) == 2, f"chunks stored before the kill: {chunks()}")
    kept = {path: path.stat().st_mtime_ns for path in chunks()}
    again, log = scene.evaluate(*DRAW, "--work", work, samples=scene.run_folder, ranks=2)
    test.expect(again == whole, "scores after a kill")
    test.expect("2 of 4 chunks of the samples are stored: 2 to extract" in log, f"log: {log}")
    test.expect(all(path.stat().st_mtime_ns == when for path, when in kept.items()), "stored chunks are left alone")
    test.expect(len(chunks()) == 5, f"chunks of samples and reference: {chunks()}")

    for path in kept:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    again, log = scene.evaluate(*DRAW, "--work", work, samples=scene.run_folder)
    test.expect(again == whole and "2 of 4 chunks of the samples are stored" in log, f"damaged chunks: {log}")
    other, log = scene.evaluate(*DRAW[:-1], "6", "--work", work, samples=scene.run_folder)
    test.expect(other["fd"] != whole["fd"] and "chunks of the samples are" not in log, "another seed is another set")
    test.expect("1 of 1 chunks of the reference are stored: 0 to extract" in log, "the reference's features are kept")

    # With the pictures kept, too, every attempt gets on: one more chunk each.
    kept = (*DRAW, "--work", test.folder / "pictures", "--write-samples", "kept.npz", "--grid", "kept.png")
    for stored in range(4):
        _, log = scene.evaluate(*kept, samples=scene.run_folder, rc=-signal.SIGKILL,
                                env={"SHARDIT_KILL_POINT": "evaluate.chunk_stored:1"})
        told = f"{stored} of 4 chunks of the samples are stored: {4 - stored} to extract"
        test.expect(stored == 0 or told in log, f"attempt {stored}: {log}")
    again, log = scene.evaluate(*kept, samples=scene.run_folder, ranks=2)
    test.expect(again == whole and "4 of 4 chunks of the samples are stored: 0 to extract" in log, f"pictures: {log}")
    for name in ("npz", "png"):
        drawn = "drawn.npz" if name == "npz" else "grid.png"
        test.expect((test.folder / f"kept.{name}").read_bytes() == (test.folder / drawn).read_bytes(),
                    f"an interrupted evaluation writes another .{name}")
    # Features that are there need no drawing, but for the chunk that the picture shows.
    grid, log = scene.evaluate(*DRAW, "--work", work, "--grid", "kept.png", samples=scene.run_folder)
    test.expect(grid == whole and "3 of 4 chunks of the samples are stored: 1 to extract" in log, f"grid only: {log}")
    test.expect((test.folder / "kept.png").read_bytes() == (test.folder / "grid.png").read_bytes(), "the grid alone")

    # A signal: many more chunks than can be done before it comes.
    arguments = ["evaluate", "--samples", scene.run_folder, "--reference", scene.reference, "--extractor",
                 scene.extractor, "--num", "20000", "--steps", "50", "--work", test.folder / "signalled"]
    process = subprocess.Popen([test.program, *map(str, arguments)], cwd=test.folder, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((test.folder / "signalled").glob("*/chunk-*.features")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, log = process.communicate(timeout=300)
    test.expect(process.returncode == 75, f"a signal: exit code {process.returncode}: {log}")


def check_weight_files(test, scene):
    """A weight file without a configuration is another model with each that it is given."""
    done = test.run("checkpoint", "export", scene.run_folder, "--out", "weights.safetensors")
    test.expect(done.returncode == 0, done.stderr)
    data = (test.folder / "weights.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    del header["__metadata__"]
    head = json.dumps(header).encode()
    (test.folder / "foreign.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data[8 + size:])
    configs = {"same": harness.SMALL_MODEL, "schedule": harness.SMALL_MODEL + "diffusion { schedule: COSINE }",
               "prediction": harness.SMALL_MODEL + "diffusion { prediction: X0 }"}
    reports = {}
    for name, text in configs.items():
        config = test.write_config(f"{name}.textproto", text)
        arguments = (*DRAW, "--config", config)
        fresh, _ = scene.evaluate(*arguments, samples="foreign.safetensors")
        kept, _ = scene.evaluate(*arguments, "--work", "foreign_work", samples="foreign.safetensors")
        test.expect(kept == fresh, f"{name}: features of another configuration were used")
        reports[name] = fresh
    hashes = {report["samples"]["config_hash"] for report in reports.values()}
    test.expect(len(hashes) == 3 and len({report["fd"] for report in reports.values()}) == 3, f"models: {hashes}")
    own, _ = scene.evaluate(*DRAW, samples="weights.safetensors")
    test.expect(own["samples"]["config_hash"] == reports["same"]["samples"]["config_hash"], "the hash of a configuration")
    test.expect(own["samples"]["weights"] == "ema" and "weights" not in reports["same"]["samples"], "what a file says")
    scene.evaluate(*DRAW, "--weights", "model", samples="weights.safetensors", rc=64)


def check_wrong_inputs(test, scene):
    """Each is one line that says what is wrong, on one rank and on two, before anything is written."""
    def npz(name, **arrays):
        numpy.savez(test.folder / name, **arrays)
        return name

    pixels = to_bytes(scene.sample_images)
    whole = scene.samples.read_bytes()
    (test.folder / "truncated.npz").write_bytes(whole[:len(whole) // 2])
    damaged = bytearray(whole)
    damaged[1000] ^= 1
    (test.folder / "damaged.npz").write_bytes(damaged)
    (test.folder / "empty").mkdir()
    wrong_dim = npz("wrong_dim.npz", mu=numpy.zeros(5), sigma=numpy.eye(5))
    files = [(npz("objects.npz", arr_0=numpy.array([{}, []], dtype=object)), "object"),
             (npz("floats.npz", arr_0=pixels.astype(numpy.float32)), "<f4"),
             (npz("channels.npz", arr_0=numpy.repeat(pixels, 4, 3)), "1 or 3"),
             (npz("no_images.npz", images=pixels), "arr_0"),
             ("truncated.npz", "truncated.npz"), ("damaged.npz", "damaged"), ("empty", "expected a folder"),
             ("missing.npz", "missing.npz")]
    for name, what in files:
        for ranks in (0, 2) if name in ("damaged.npz", "floats.npz") else (0,):
            _, log = scene.evaluate(samples=name, rc=65, ranks=ranks)
            line = [text for text in log.splitlines() if text.startswith("shardit:")]
            test.expect(len(line) == 1 and what in line[0], f"{name}: {log}")

    usage = [(["--num", "5000"], "holds 260"), (["--metrics", "fid,psnr"], "psnr"), (["--num", "1"], "num"),
             (["--write-samples", "x.npz"], "draws"), (["--samples", npz("big.npz", arr_0=numpy.zeros((9, 9, 9, 1), "u1"))],
                                                      "9 x 9"),
             (["--samples", npz("rgb.npz", arr_0=numpy.repeat(pixels, 3, 3))], "8 x 8 x 3"),
             (["--samples", npz("one.npz", arr_0=pixels[:1])], "two images"),
             (["--reference", wrong_dim], "another extractor"),
             (["--reference", scene.run_folder], "expected images or statistics"),
             (["--samples", scene.run_folder], "--num is needed"),
             (["--metrics", "pr", "--k", "300"], "--k 300"),
             (["--metrics", "sfid", "--reference", npz("plain.npz", mu=numpy.zeros(128), sigma=numpy.eye(128))], "mu_s")]
    for arguments, what in usage:
        arguments = [str(argument) for argument in arguments]
        command = {"--samples": scene.samples, "--reference": scene.reference, "--extractor": scene.extractor}
        command.update(zip(arguments[::2], arguments[1::2]))
        done = test.run("evaluate", *[text for pair in command.items() for text in pair], "--work", "never")
        test.expect(done.returncode == 64 and what in done.stderr, f"{arguments}: {done.returncode} {done.stderr}")
    test.expect(not (test.folder / "never").exists(), "nothing is written for a wrong request")
    done = test.run("evaluate", "--samples", scene.samples, "--reference", scene.reference)
    test.expect(done.returncode == 64 and "--extractor is needed" in done.stderr, f"no extractor: {done.stderr}")
    scene.evaluate("--out", "no/such/folder.json", rc=73)
    scene.evaluate("--extractor", scene.samples, rc=64)  # given twice
    done = test.run("evaluate", "--samples", scene.samples, "--reference", scene.reference, "--extractor", scene.samples)
    test.expect(done.returncode == 65, f"an extractor that is none: {done.returncode} {done.stderr}")


def main():
    test = harness.Harness()
    scene = Scene(test)
    for part in (check_against_numpy, check_ranks, check_sources, check_model, check_restarts, check_weight_files,
                 check_wrong_inputs):
        part(test, scene)
    test.finish()


if __name__ == "__main__":
    main()
