#!/usr/bin/env python3
"""Training on GPUs through the commands users type: the losses of the CPU in fp32, bf16 beside them, every sharding on
ranks that share a device, the graph's bits against the step's, checkpoints that go from GPU to CPU and back, memory that
does not suffice. The program named by SHARDIT_CUDA_PROGRAM runs the CUDA code: the build's shardit_emulated, or on a
machine with a GPU the program itself."""
import os

from harness import Harness, checkpoint_bytes, losses, rows_logged

CONFIG = """
model { depth: 2 width: 48 heads: 4 patch: 2 channels: 2 side: 8 classes: 3 class_dropout: 0.3 %s }
data { path: "data.h5" flip: true }
optimizer { learning_rate: 1e-3 clip_norm: 0.5 warmup_steps: 5 weight_decay: 0.01 }
ema { decay: 0.9 warmup: true }
train { steps: 20 global_batch: 8 seed: 3 checksum_every: 2 }
parallel { bucket_mib: 1 }
checkpoint { every_steps: 0 }
log { every_steps: 1 tensorboard: false }
"""
GPU, CPU = ["train.device=CUDA"], ["train.device=CPU"]
# ranks on one device, settings
LAYOUTS = [
    (2, ["parallel.zero_stage=0"]),
    (2, ["parallel.zero_stage=1"]),
    (2, ["parallel.zero_stage=2", "train.micro_batch=2"]),
    (2, ["parallel.zero_stage=3", "parallel.recompute=FULL"]),
    (2, ["parallel.tp=2"]),
    (2, ["parallel.tp=2", "parallel.sequence_parallel=true", "parallel.recompute=SELECTIVE"]),
    (2, ["parallel.pp=2", "parallel.schedule=ZERO_BUBBLE_H1"]),
    (2, ["train.deterministic=true"]),
]


def train(t, out, settings, ranks=0, extra=(), expected=0):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = t.run("train", "--config", "run.textproto", "--out", out, *sets, *extra, ranks=ranks, timeout=600)
    t.expect(done.returncode == expected, f"{out}: exit code {done.returncode}, expected {expected}\n{done.stderr}")
    return losses(t.folder / out) if expected == 0 else done.stderr


def farthest(a, b):
    return max(abs(x - y) / abs(x) for x, y in zip(a, b)) if len(a) == len(b) and a else float("inf")


def main():
    t = Harness()
    cpu_program, t.program = t.program, os.environ.get("SHARDIT_CUDA_PROGRAM", "")
    if not t.program:
        raise SystemExit("SHARDIT_CUDA_PROGRAM names no program with CUDA code")
    t.write_data("data.h5", channels=2)
    t.write_config("run.textproto", CONFIG % "")

    on_cpu = train(t, "cpu", CPU)
    on_gpu = train(t, "gpu", GPU)
    t.expect(farthest(on_cpu, on_gpu) <= 1e-4, f"fp32 losses: CPU {on_cpu}\nGPU {on_gpu}")
    rows = rows_logged(t.folder / "gpu")
    t.expect(all(row["peak_bytes"] > 0 for row in rows), "peak_bytes on the GPU")
    # A graph replays what the steps before it did: the same bits, where two programs choose the same algorithms. Else
    # each has taken those that were the fastest when it timed them.
    fixed = GPU + ["train.deterministic=true"]
    graph, eager = train(t, "graph", fixed), train(t, "eager", fixed + ["train.cuda_graph=false"])
    t.expect(eager == graph, f"with a graph {graph}\nwithout {eager}")
    t.expect(checkpoint_bytes(t.folder / "eager", 20) == checkpoint_bytes(t.folder / "graph", 20) != {},
             "final state with and without a graph")

    bf16 = train(t, "bf16", GPU + ["train.precision=BF16"])
    t.expect(1e-7 < farthest(on_cpu, bf16) <= 0.02, f"bf16 {bf16}\nfp32 {on_cpu}")
    tf32 = train(t, "tf32", GPU + ["train.precision=TF32"])
    t.expect(farthest(on_cpu, tf32) <= 5e-3, f"tf32 {tf32}\nfp32 {on_cpu}")

    for number, (ranks, settings) in enumerate(LAYOUTS):
        short = settings + ["train.steps=6"]
        got = train(t, f"layout{number}", GPU + short, ranks=ranks)
        t.expect(farthest(on_cpu[:6], got) <= 1e-4, f"{settings}: {got}\nCPU {on_cpu[:6]}")
    for number, settings in enumerate((["parallel.zero_stage=1"], ["parallel.zero_stage=3"], ["parallel.tp=2"])):
        got = train(t, f"bf16_{number}", GPU + ["train.precision=BF16", "train.steps=6"] + settings, ranks=2)
        t.expect(farthest(bf16[:6], got) <= 0.01, f"bf16 {settings}: {got}\none rank {bf16[:6]}")

    # Ten steps on one, five on the other, five on the first again.
    t.write_config("run.textproto", CONFIG % "")
    train(t, "hop", GPU + ["checkpoint.every_steps=5"], extra=["--stop-after", 10], expected=75)
    t.program, gpu_program = cpu_program, t.program
    train(t, "hop", CPU, extra=["--stop-after", 5], expected=75)
    t.program = gpu_program
    hopped = train(t, "hop", GPU)
    t.expect(farthest(on_cpu, hopped) <= 1e-4, f"GPU, CPU, GPU: {hopped}\nCPU {on_cpu}")

    picture = t.run("sample", "--checkpoint", "gpu", "--num", 3, "--steps", 3, "--sampler", "ddim", "--device", "cuda",
                    "--out", "gpu.npz", timeout=600)
    t.expect(picture.returncode == 0 and (t.folder / "gpu.npz").exists(), f"sample: {picture.stderr}")

    os.environ["SHARDIT_CUDA_EMULATOR_MEMORY"] = str(1025 << 20)  # 1 GiB stays outside of what is planned
    if "emulated" in t.program:
        says = train(t, "small", GPU + ["train.global_batch=64", "model.width=96"], expected=64)
        t.expect("does not fit" in says and "--set" in says and "activations" in says, f"out of memory: {says}")
    t.finish()


if __name__ == "__main__":
    main()
