#!/usr/bin/env python3
"""shardit extractor as users type it: train a classifier on a few images, show it, and convert what is no Inception."""
import hashlib
import json
import pathlib

import h5py
import numpy

from harness import Harness


GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data/formats_golden"


def write_images(t, name, count, seed):
    """Three classes of 8 x 8 images: bright on top, in the middle, or below."""
    random = numpy.random.default_rng(seed)
    labels = numpy.arange(count) % 3
    images = random.uniform(-0.9, -0.5, (count, 1, 8, 8)).astype(numpy.float32)
    for i, label in enumerate(labels):
        images[i, :, 2 * label + 1:2 * label + 3] += 1.2
    with h5py.File(t.folder / name, "w") as file:
        file["latents"] = images
        file["labels"] = labels


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(t, out, *flags):
    return t.run("extractor", "train", "--data", "train.h5", "--out", out, "--epochs", "3", "--batch", "20",
                 "--first-channels", "4", *flags)


def check_training(t):
    result = train(t, "a.safetensors", "--validation", "test.h5", "--json")
    t.expect(result.returncode == 0, f"train: {result.stderr}")
    report = json.loads(result.stdout)
    t.expect(report["accuracy"] > 0.8, f"held-out accuracy {report['accuracy']}")
    t.expect(report["images"] == 600 and report["steps"] == 90, f"report {report}")
    t.expect(report["sha256"] == digest(t.folder / "a.safetensors"), "train prints another hash than the file's")
    t.expect(result.stderr.count("held-out accuracy") == 3, f"a line an epoch: {result.stderr}")

    same = train(t, "b.safetensors", "--validation", "test.h5", "--threads", "1")
    t.expect(same.returncode == 0 and f"held-out accuracy {report['accuracy']:.4f}" in same.stdout, same.stdout)
    t.expect(digest(t.folder / "b.safetensors") == report["sha256"], "weights depend on the threads")
    blind = train(t, "c.safetensors", "--json", "--flip")
    t.expect(json.loads(blind.stdout)["accuracy"] is None, "an accuracy without held-out images")
    t.expect(digest(t.folder / "c.safetensors") != report["sha256"], "--flip changes nothing")
    return report


def check_show(t, report):
    result = t.run("extractor", "show", "a.safetensors", "--json")
    t.expect(result.returncode == 0, f"show: {result.stderr}")
    shown = json.loads(result.stdout)
    for key, value in {"architecture": "classifier", "weights_sha256": report["sha256"], "is_fid": False,
                       "parameters": report["parameters"], "classes": 3, "feature_dim": 128, "spatial_dim": 28}.items():
        t.expect(shown[key] == value, f"show: {key} is {shown[key]}, expected {value}")
    t.expect(float(shown["metadata"]["validation.accuracy"]) == report["accuracy"], "show: accuracy")
    text = t.run("extractor", "show", "a.safetensors")
    t.expect("not FID" in text.stdout and report["sha256"] in text.stdout, f"show: {text.stdout}")


def check_refusals(t):
    (t.folder / "text.pth").write_text("no weights\n")
    (t.folder / "text.safetensors").write_text("no weights\n")
    (t.folder / "tiny.pth").write_bytes(GOLDEN.joinpath("torch_zip.pth").read_bytes())
    t.write_data("latents.h5", channels=4)
    before = t.files()
    cases = [
        (["convert", "--in", "tiny.pth", "--out", "x"], 65, ["tiny.pth", "Conv2d_1a_3x3.conv.weight", "FID variant"]),
        (["convert", "--in", "text.pth", "--out", "x"], 65, ["text.pth", "torch.save"]),
        (["convert", "--in", "missing.pth", "--out", "x"], 65, ["missing.pth"]),
        (["show", "text.safetensors"], 65, ["text.safetensors"]),
        (["show", "missing.safetensors"], 65, ["missing.safetensors"]),
        (["train", "--data", "missing.h5", "--out", "x"], 65, ["missing.h5"]),
        (["train", "--data", "latents.h5", "--out", "x"], 65, ["latents.h5", "channels 4", "1 (grey) or 3 (RGB)"]),
        (["train", "--data", "train.h5", "--out", "x", "--epochs", "0"], 64, ["--epochs 0"]),
        (["train", "--data", "train.h5", "--out", "x", "--epochs", "1", "--learning-rate", "2"], 64, ["--learning-rate 2"]),
        (["train", "--data", "train.h5"], 64, ["--out"]),
        (["train", "--data", "train.h5", "--out", "no/such/x"], 73, ["no/such/x", "folder does not exist"]),
        ([], 64, ["extractor"]),
    ]
    for arguments, code, words in cases:
        result = t.run("extractor", *arguments)
        what = " ".join(arguments)
        t.expect(result.returncode == code, f"{what}: exit code {result.returncode}, expected {code}: {result.stderr}")
        t.expect(len(result.stderr.strip().splitlines()) == 1, f"{what}: expected one line, got {result.stderr}")
        for word in words:
            t.expect(word in result.stderr, f"{what}: no {word!r} in {result.stderr}")
    t.expect(t.files() == before, "a refused command left a file")


def main():
    t = Harness()
    write_images(t, "train.h5", 600, 1)
    write_images(t, "test.h5", 90, 2)
    report = check_training(t)
    check_show(t, report)
    check_refusals(t)
    t.finish()


main()
