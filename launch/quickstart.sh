#!/usr/bin/env bash
# From a bare machine to images and scores: installs, builds, imports Fashion-MNIST, trains a small class-conditional DiT on
# two MPI ranks, stops and resumes it once, samples a labelled grid from the EMA weights, trains a small classifier and
# scores samples by its features.
# usage: launch/quickstart.sh      everything lands in results/, which git ignores; run again, it starts anew
set -euo pipefail
[[ $# -eq 0 ]] || { sed -n '/^# usage/s/^# //p' "$0" >&2; exit 64; }
begin=$SECONDS
source "$(dirname "$0")/setup.sh"
say() { printf '\n[%3d s] %s\n' $((SECONDS - begin)) "$*"; }

say "installing what is missing"
./launch/install_deps.sh run
say "building (log: build/release.log)"
build_preset release OFF shardit

images=/usr/share/datasets/fashion-mnist
run=results/quickstart
data=results/data
mkdir -p "$data"
say "importing Fashion-MNIST"
for part in train t10k; do
  [[ -s $data/fashion_mnist_$part.h5 ]] && continue
  "$shardit" data import-idx --images "$images/$part-images-idx3-ubyte.gz" \
    --labels "$images/$part-labels-idx1-ubyte.gz" --out "$data/fashion_mnist_$part.h5"
done
"$shardit" data info "$data/fashion_mnist_train.h5"

# Two ranks share the cores; mpirun hides the terminal, so the ranks are told whether there is one.
export OMP_NUM_THREADS=1
[[ -t 2 ]] && export SHARDIT_PROGRESS=1 COLUMNS=${COLUMNS:-$(tput cols 2>/dev/null || echo 80)}
train() {
  mpirun "${mpirun_args[@]}" -n 2 "$shardit" train --config configs/fashion_mnist.textproto --out "$run" "$@"
}
steps=$(sed -n 's/^train {.* steps: \([0-9]*\).*/\1/p' configs/fashion_mnist.textproto)

say "training on 2 ranks: $steps steps in $run"
rm -rf "$run"
# The first part ends as a scheduler would end it: state saved, exit code 75, to be run again.
status=0
train --stop-after $((steps * 2 / 5)) || status=$?
[[ $status -eq 75 ]] || { echo "quickstart.sh: expected exit code 75 (saved, run me again), got $status" >&2; exit 1; }
say "resuming the run from its checkpoint"
train

say "sampling: 10 classes, 10 images each, EMA weights, guidance 2"
mpirun "${mpirun_args[@]}" -n 2 "$shardit" sample --checkpoint "$run" --num 100 --sampler ddim --steps 50 \
  --cfg-scale 2 --cfg-channels 0 --out "$run/quickstart.png"

say "training a classifier to judge samples by"
[[ -s $data/classifier.safetensors ]] || "$shardit" extractor train --data "$data/fashion_mnist_train.h5" \
  --validation "$data/fashion_mnist_t10k.h5" --epochs 2 --out "$data/classifier.safetensors"

say "scoring 500 samples, drawn for it: 50 each of 10 classes, EMA weights, guidance 2"
mpirun "${mpirun_args[@]}" -n 2 "$shardit" evaluate --samples "$run" --num 500 --sampler ddim --steps 50 --cfg-scale 2 \
  --cfg-channels 0 --reference "$data/fashion_mnist_t10k.h5" --extractor "$data/classifier.safetensors" \
  --out "$run/scores.json"

held_out=$(sed -n 's/^{"step":\([0-9]*\),.*"validation_loss":\([^,}]*\).*/\2 at step \1/p' "$run/metrics.jsonl" | tail -n 1)
checkpoint=$(ls -d "$run"/checkpoints/[0-9]*[0-9] | tail -n 1)
say "done"
cat <<END
held-out loss   $held_out (10,000 test images, EMA weights)
sample grid     $run/quickstart.png   (a row a class, ten images each)
scores          $run/scores.json
losses          $run/metrics.jsonl, $run/tensorboard/, $run/log.txt
checkpoint      $checkpoint
configuration   $run/config.textproto
data            $data/fashion_mnist_{train,t10k}.h5
END
