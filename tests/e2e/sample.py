"""shardit sample from outside: the same file on any number of ranks, interrupted or not; latents for a decoder; and what is
refused before anything is drawn."""
import json
import os
import shutil
import signal
import struct
import subprocess
import time

import numpy

import harness

DRAW = ("--num", "70", "--steps", "4", "--cfg-scale", "1.5", "--seed", "5")  # five chunks


def sample(t, run, out, *arguments, ranks=0, rc=0, env=None):
    command = [*t.mpirun, "-n", str(ranks)] if ranks else []
    command += [t.program, "sample", "--checkpoint", run, "--out", out, *(arguments or DRAW)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, cwd=t.folder,
                          check=False, env={**os.environ, **(env or {})})
    t.expect(done.returncode == rc, f"{out} {arguments}: exit code {done.returncode}, expected {rc}: {done.stderr}")
    return done.stderr


def train(t, name, model, data, extra="", steps=4):
    config = t.write_config(f"{name}.textproto", f'{model} data {{ path: "{data}" }} train {{ steps: {steps} '
                            f'global_batch: 8 }} {extra}')
    done = t.run("train", "--config", config, "--out", name)
    t.expect(done.returncode == 0, f"training {name}: {done.stderr}")
    return done.stderr


def png_size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


def check_same_file(t):
    sample(t, "run", "one.npz")
    whole = (t.folder / "one.npz").read_bytes()
    with numpy.load(t.folder / "one.npz") as npz:
        t.expect(npz["arr_0"].shape == (70, 8, 8, 1) and (npz["arr_1"] == numpy.arange(70) % 3).all(), "arrays")
    for ranks in (2, 3):
        sample(t, "run", "many.npz", ranks=ranks)
        t.expect((t.folder / "many.npz").read_bytes() == whole, f"{ranks} ranks draw other samples")
    sample(t, "run", "one.png")
    picture = (t.folder / "one.png").read_bytes()

    # Killed behind its second chunk, then by itself and by a signal; each attempt goes on where the last one ended.
    for left in (5, 3):
        log = sample(t, "run", "parts.npz", rc=-signal.SIGKILL, env={"SHARDIT_KILL_POINT": "sample.chunk_stored:2"})
        t.expect(left == 5 or f"{5 - left} of 5 chunks of the samples are stored: {left} to draw" in log, f"log: {log}")
    t.expect(len(list((t.folder / "parts.npz.parts").glob("chunk-*.pixels"))) == 4, "chunks that were stored")
    damaged = t.folder / "parts.npz.parts" / "chunk-000001.pixels"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    log = sample(t, "run", "parts.npz", ranks=2)
    t.expect("3 of 5 chunks of the samples are stored: 2 to draw" in log and "checksums" in log, f"log: {log}")
    t.expect((t.folder / "parts.npz").read_bytes() == whole, "an interrupted sampling gives another file")
    sample(t, "run", "parts.png", rc=-signal.SIGKILL, env={"SHARDIT_KILL_POINT": "sample.chunk_stored:2"})
    sample(t, "run", "parts.png", ranks=2)
    t.expect((t.folder / "parts.png").read_bytes() == picture, "an interrupted sampling gives another picture")

    # Chunks of other settings are not used; more samples go on from those that are there.
    sample(t, "run", "other.npz", *DRAW[:-1], "6", rc=-signal.SIGKILL, env={"SHARDIT_KILL_POINT": "sample.chunk_stored:2"})
    log = sample(t, "run", "other.npz")
    t.expect("other settings" in log and "are stored" not in log, f"log: {log}")
    t.expect((t.folder / "other.npz").read_bytes() == whole, "chunks of another seed were used")
    sample(t, "run", "more.npz", rc=-signal.SIGKILL, env={"SHARDIT_KILL_POINT": "sample.chunk_stored:4"})
    log = sample(t, "run", "more.npz", "--num", "90", *DRAW[2:])
    t.expect("4 of 6 chunks of the samples are stored: 2 to draw" in log, f"log: {log}")
    t.expect(not list(t.folder.glob("*.parts")), "folders of parts are left")


def check_signal(t):
    command = [*t.mpirun, "-n", "2", t.program, "sample", "--checkpoint", "run", "--out", "signalled.npz", "--num",
               "20000", "--steps", "50"]
    process = subprocess.Popen(command, cwd=t.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(t.folder.glob("signalled.npz.parts/*.pixels")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)  # the launcher passes it on
    _, log = process.communicate(timeout=300)
    t.expect(process.returncode == 75 and "the same command goes on" in log, f"a signal: {process.returncode}: {log}")
    t.expect(not (t.folder / "signalled.npz").exists(), "a stopped sampling left a file")


def check_one_checkpoint(t):
    """The first rank says which checkpoint it is, though a newer one is there when the others look."""
    for name in ("a", "b"):
        (t.folder / name).mkdir()
        shutil.copytree(t.folder / "run", t.folder / name / "run")
    shutil.rmtree(t.folder / "a/run/checkpoints/0000004")
    sample(t, "run/checkpoints/0000002", "second.npz")
    one = [t.program, "sample", "--checkpoint", "run", "--out", str(t.folder / "mixed.npz"), *DRAW]
    done = subprocess.run([*t.mpirun, "-n", "1", "--wdir", str(t.folder / "a"), *one, ":", "-n", "1", "--wdir",
                           str(t.folder / "b"), *one], capture_output=True, text=True, timeout=600, check=False)
    t.expect(done.returncode == 0, f"ranks in two folders: {done.stderr}")
    t.expect((t.folder / "mixed.npz").read_bytes() == (t.folder / "second.npz").read_bytes(),
             "a file of two checkpoints")


def check_latents(t):
    t.write_data("latents.h5", channels=4)
    model = "model { depth: 1 width: 32 heads: 2 patch: 4 channels: 4 side: 8 classes: 3 }"
    train(t, "latent", model, "latents.h5")
    sample(t, "latent", "latents.npz")
    with numpy.load(t.folder / "latents.npz") as npz:
        t.expect(sorted(npz.files) == ["labels", "latents"], f"arrays {npz.files}")
        latents, labels = npz["latents"], npz["labels"]
        t.expect(latents.shape == (70, 4, 8, 8) and latents.dtype == numpy.float32, f"latents {latents.shape}")
        t.expect(numpy.isfinite(latents).all() and latents.std() > 0.1, "latents")
        t.expect((labels == numpy.arange(70) % 3).all(), "labels")
    sample(t, "latent", "again.npz", ranks=2)
    t.expect((t.folder / "again.npz").read_bytes() == (t.folder / "latents.npz").read_bytes(), "2 ranks: other latents")
    log = sample(t, "latent", "latents.png")
    t.expect("false-colour preview" in log and ".npz" in log, f"log: {log}")
    # The colours are stretched over the whole set, not over chunks: on one rank or more, killed or not, the same.
    sample(t, "latent", "killed.png", rc=-signal.SIGKILL, env={"SHARDIT_KILL_POINT": "sample.chunk_stored:3"})
    sample(t, "latent", "killed.png", ranks=3)
    t.expect((t.folder / "killed.png").read_bytes() == (t.folder / "latents.png").read_bytes(), "pictures of latents")


def check_many_classes(t):
    t.write_data("classes.h5", count=24, classes=1000)
    model = "model { depth: 1 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 1000 }"
    log = train(t, "classes", model, "classes.h5", "log { sample_every: 4 sample_per_class: 1 sample_steps: 2 }")
    t.expect("no room" not in log and (t.folder / "classes/samples/0000004.png").exists(), f"log: {log}")
    # A row for each class that has a sample.
    sample(t, "classes", "eight.png", "--num", "8", "--steps", "2")
    width, height = png_size(t.folder / "eight.png")
    t.expect(height == 8 * 68 and width < 200, f"a picture of eight samples: {width} x {height}")
    before = t.files()
    for ranks in (0, 2):
        log = sample(t, "classes", "large.png", "--num", "1000", "--steps", "2", ranks=ranks, rc=64)
        line = [text for text in log.splitlines() if text.startswith("shardit:")]
        t.expect(len(line) == 1 and "963 classes" in line[0] and "--classes" in line[0] and ".npz" in line[0],
                 f"log: {log}")
    sample(t, "classes", "wide.png", "--num", "2000", "--steps", "2", "--classes", "7", rc=64)
    t.expect(t.files() == before, "a picture that does not fit left files")

    # Training cuts its own picture, and says so once.
    one = "model { depth: 1 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 1 }"
    t.write_data("one.h5", count=24, classes=1)
    log = train(t, "cut", one, "one.h5", "log { sample_every: 1 sample_per_class: 1000 sample_steps: 2 }", steps=2)
    t.expect(log.count("a PNG has no room for more") == 1, f"log: {log}")
    width, height = png_size(t.folder / "cut/samples/0000002.png")
    t.expect(65535 - 68 < width <= 65535, f"training's picture: {width} x {height}")


def rewrite(t, source, target, change):
    """A safetensors file with changed metadata and values."""
    data = (t.folder / source).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8:8 + size]), bytearray(data[8 + size:])
    change(header, values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (t.folder / target).write_bytes(len(text).to_bytes(8, "little") + text + values)


def check_refusals(t):
    done = t.run("checkpoint", "export", "run", "--weights", "ema", "--out", "ema.safetensors")
    t.expect(done.returncode == 0, done.stderr)

    def spoil(header, values):
        begin = header["final_layer.linear.bias"]["data_offsets"][0]
        values[begin:begin + 4] = struct.pack("<f", float("nan"))

    rewrite(t, "ema.safetensors", "nan.safetensors", spoil)
    (t.folder / "folder.npz").mkdir()
    before = t.files()
    cases = [("nan.safetensors", "x.npz", (), 77, "sample 0 is not finite"),
             ("nan.safetensors", "x.png", (), 77, "not finite"),
             ("run", "no/such/x.npz", (), 73, "its folder does not exist"),
             ("run", "folder.npz", (), 73, "got a folder"),
             ("run", "x.jpg", (), 64, ".npz or .png"),
             ("run", "x.npz", ("--classes", "3"), 64, "0 to 2"),
             ("ema.safetensors", "x.npz", ("--weights", "model"), 64, "EMA weights only"),
             ("nowhere", "x.npz", (), 65, "nowhere")]
    for run, out, more, code, what in cases:
        for ranks in (0, 2):
            log = sample(t, run, out, *DRAW, *more, ranks=ranks, rc=code)
            line = [text for text in log.splitlines() if text.startswith("shardit:")]
            t.expect(len(line) == 1 and what in line[0], f"{run} {out} {more}: {log}")
    t.expect(t.files() == before, f"refused samplings left files: {set(t.files()) - set(before)}")


def main():
    t = harness.Harness()
    data = t.write_data("data.h5")
    train(t, "run", "model { depth: 2 width: 32 heads: 2 patch: 4 channels: 1 side: 8 classes: 3 }", data,
          "checkpoint { every_steps: 2 keep_last: 3 }")
    for part in (check_same_file, check_signal, check_one_checkpoint, check_latents, check_many_classes, check_refusals):
        part(t)
    t.finish()


if __name__ == "__main__":
    main()
