#!/usr/bin/env python3
"""Bad input: each gives one line on standard error, exit code 64 (usage, configuration) or 65 (data), and leaves nothing
behind."""
from harness import SMALL_MODEL, Harness


def prepare(t):
    t.write_data("good.h5")
    t.write_data("labels.h5", labels=[0, 1, 7] * 8)
    t.write_data("channels.h5", channels=2)
    t.write_data("side.h5", side=16)
    t.write_data("nameless.h5", key="images")
    whole = (t.folder / "good.h5").read_bytes()
    (t.folder / "truncated.h5").write_bytes(whole[:len(whole) // 2])
    (t.folder / "text.h5").write_text("this is no HDF5 file\n")
    t.write_config("good.textproto", SMALL_MODEL + 'data { path: "good.h5" }')
    t.write_config("unknown.textproto", SMALL_MODEL + 'data { path: "good.h5" } optimizer { learning_rat: 1 }')
    t.write_config("type.textproto", SMALL_MODEL + 'data { path: "good.h5" flip: "yes" }')
    t.write_config("brace.textproto", SMALL_MODEL + "data {")
    t.write_config("deep.textproto", "model{" * 5000)


# arguments after `train --config good.textproto` (or the whole command where it names another configuration), ranks,
# exit code, what the line must say
CASES = [
    (["--set", "train.stepz=1"], 0, 64, ["train.stepz", "did you mean train.steps?"]),
    (["--set", "train.steps=ten"], 0, 64, ["train.steps", "expected an integer"]),
    (["--set", "train.steps=0"], 0, 64, ["train.steps", "got 0"]),
    (["--set", "model.conditioning=FILM"], 0, 64, ["model.conditioning", "ADALN_ZERO"]),
    (["--set", "model.heads=3"], 0, 64, ["model.heads"]),
    (["--set", "model.patch=3"], 0, 64, ["model.patch"]),
    (["--set", "train.global_batch=9", "--set", "train.micro_batch=2"], 0, 64, ["train.global_batch", "got 9"]),
    (["--set", "parallel.dp=3"], 2, 64, ["dp x tp x pp", "got 2"]),
    (["--set", "train.global_batch=9"], 2, 64, ["train.global_batch", "parallel.dp 2"]),
    (["--set", "parallel.tp=3"], 3, 64, ["parallel.tp", "divisor of model.heads 2 (1, 2)", "got 3"]),
    (["--set", "parallel.pp=3"], 3, 64, ["parallel.pp", "model.depth 2"]),
    (["--set", "train.deterministic=true", "--set", "train.global_batch=12"], 0, 64, ["virtual_shards 8", "got 12"]),
    (["--set", "train.precision=BF16"], 0, 64, ["train.precision", "FP32"]),
    (["--set", "train.precision=BF16", "--set", "train.device=CPU"], 0, 64, ["train.precision", "needs a GPU"]),
    (["--set", "train.device=CUDA"], 0, 64, ["train.device", "CUDA"]),
    (["--resume", "soon"], 0, 64, ["soon"]),
    (["--frobnicate"], 0, 64, ["--frobnicate", "shardit train --help"]),
    (["--set", "data.path=missing.h5"], 0, 65, ["missing.h5"]),
    (["--set", "data.path=truncated.h5"], 0, 65, ["truncated.h5"]),
    (["--set", "data.path=text.h5"], 0, 65, ["text.h5"]),
    (["--set", "data.path=nameless.h5"], 0, 65, ["nameless.h5", "latents"]),
    (["--set", "data.path=labels.h5"], 0, 65, ["labels.h5", "7"]),
    (["--set", "data.path=channels.h5"], 0, 65, ["channels.h5"]),
    (["--set", "data.path=side.h5"], 0, 65, ["side.h5"]),
    (["--set", "data.path=labels.h5"], 2, 65, ["labels.h5"]),
    (["--set", "data.validation_path=truncated.h5"], 0, 65, ["truncated.h5"]),
    (["--init-from", "missing.safetensors"], 0, 65, ["missing.safetensors"]),
]
OTHER_COMMANDS = [
    (["train", "--config", "missing.textproto"], 64, ["missing.textproto"]),
    (["train", "--config", "unknown.textproto"], 64, ["unknown.textproto:1:", "optimizer.learning_rate?"]),
    (["train", "--config", "type.textproto"], 64, ["type.textproto:1:", "data.flip", "true or false"]),
    (["train", "--config", "brace.textproto"], 64, ["brace.textproto"]),
    (["train", "--config", "deep.textproto"], 64, ["deep.textproto"]),
    (["train"], 64, ["--config"]),
    (["tarin"], 64, ["tarin"]),
    ([], 64, ["shardit --help"]),
    (["data", "info", "missing.h5"], 65, ["missing.h5"]),
    (["data", "info", "truncated.h5"], 65, ["truncated.h5"]),
    (["data", "import-idx", "--images", "text.h5", "--labels", "text.h5", "--out", "out/x.h5"], 65, ["text.h5"]),
    (["checkpoint", "ls", "nowhere"], 65, ["nowhere"]),
    (["checkpoint", "show", "nowhere"], 65, ["nowhere"]),
    (["checkpoint", "export", "nowhere", "--out", "w.safetensors"], 65, ["nowhere"]),
    (["sample", "--checkpoint", "nowhere", "--num", "1", "--out", "x.png"], 65, ["nowhere"]),
    (["sample", "--checkpoint", "nowhere", "--num", "0", "--out", "x.png"], 64, ["--num"]),
]


def own_lines(stderr):
    """Without what mpirun adds when a rank fails."""
    return [line for line in stderr.splitlines() if line.startswith("shardit: ")]


def check(t, arguments, ranks, code, words):
    before = t.files()
    done = t.run(*arguments, ranks=ranks)
    label = f"shardit {' '.join(arguments)} (ranks {ranks})"
    t.expect(done.returncode == code, f"{label}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    lines = own_lines(done.stderr)
    t.expect(len(lines) == 1, f"{label}: expected one line of error, got {done.stderr!r}")
    if ranks == 0:
        t.expect(done.stderr.count("\n") == 1, f"{label}: more than the error on standard error: {done.stderr!r}")
    for word in words:
        t.expect(lines and word in lines[0], f"{label}: {word!r} is missing in {lines}")
    t.expect(done.stdout == "", f"{label}: standard output holds {done.stdout!r}")
    t.expect(t.files() == before, f"{label}: wrote {set(t.files()) - set(before)}")


def main():
    t = Harness()
    prepare(t)
    for extra, ranks, code, words in CASES:
        check(t, ["train", "--config", "good.textproto", "--out", "run", *extra], ranks, code, words)
    for arguments, code, words in OTHER_COMMANDS:
        check(t, arguments, 0, code, words)
    t.finish()


if __name__ == "__main__":
    main()
