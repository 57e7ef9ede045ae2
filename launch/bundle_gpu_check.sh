#!/usr/bin/env bash
# What there is to know about this machine's GPU, most important first: that it is there, that every kernel computes
# what it should on it, that training on it is the training of the CPU, and how fast it all is. Each part has a time
# limit of its own and writes into the folder as it goes, so that a machine held for ten minutes tells the most in
# them; a later call adds the other parts to the same folder. Ends with one table of all parts known so far.
# usage: gpu_check [--out DIR] [--python PYTHON] [--seconds N] [--tests FILTER] [--list] [PART...]
#   --out DIR        default gpu_report
#   --python PYTHON  an interpreter with PyTorch, to compare with; default: python3, where it has torch
#   --seconds N      end within so many seconds (default 590): the last part gets what is left, others wait
#   --tests FILTER   the tests that memcheck and racecheck run (GoogleTest filter)
#   PART...          only these, even if they are done; default: all that have no result yet, in the order of --list
set -uo pipefail
root=$(dirname "$(dirname "$(readlink -f "$0")")")
parts=(device tests train memcheck step kernels layouts torch racecheck)
declare -A limit=([device]=30 [tests]=180 [train]=90 [memcheck]=120 [step]=150 [kernels]=60 [layouts]=120 [torch]=560 [racecheck]=300)
out=gpu_report python='' seconds=590 chosen=() single=''
# Tests on whole models' shapes take minutes under a sanitizer.
tests='-*Large*:*large*:*Timing*'
while [[ $# -gt 0 ]]; do
  case "$1" in
    --out) out=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --tests) tests=$2; shift 2 ;;
    --list) printf '%s\n' "${parts[@]}"; exit 0 ;;
    --single) single=$2; shift 2 ;;  # how a part is run under its limit
    *) [[ -n ${limit[$1]-} ]] || { echo "gpu_check: no part $1; there are: ${parts[*]}" >&2; exit 64; }
       chosen+=("$1"); shift ;;
  esac
done
mkdir -p "$out" && out=$(realpath "$out") || exit 73
export PATH=$root/bin:$PATH

# A part prints what it does into its log. Its headline is what the table says of it; it may be rewritten as the part
# goes on, for the limit may strike. Status 0: good; 3: nothing to do here; else: bad.
headline() { printf '%s\n' "$*" >"$out/$single.line"; }
skip() { headline "$*"; exit 3; }

part_device() {
  nvidia-smi 2>&1 || true
  shardit --version
  shardit doctor
  local gpus
  gpus=$(shardit doctor --json | sed -n '/"name": "gpu"/,/}/s/.*"detail": "\(.*\)"$/\1/p')
  headline "$gpus"
  [[ $gpus != none* ]]
}

part_tests() {
  [[ -x $root/bin/cuda_tests ]] || skip "this bundle was built without CUDA"
  cuda_tests | tee "$out/cuda_tests.txt"
  local status=${PIPESTATUS[0]}
  headline "$(count_tests "$out/cuda_tests.txt")"
  return "$status"
}

count_tests() {
  awk '/^\[       OK \]/ {ok++} /^\[  FAILED  \].*ms\)$/ {bad++; names = names " " $4} /^\[  SKIPPED \].*ms\)$/ {skipped++}
       END {printf "%d passed, %d failed, %d skipped%s", ok, bad, skipped, names == "" ? "" : ":" names}' "$1"
}

# train NAME SETTING...: twenty steps on stripes; prints the losses' file.
train() {
  local run=$out/train/$1 set=()
  shift
  for setting in "data.path=$root/data/stripes.h5" "$@"; do set+=(--set "$setting"); done
  rm -rf "$run"
  shardit train --config "$root/configs/stripes.textproto" --out "$run" --resume never "${set[@]}" >&2 || return 1
  sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$run/metrics.jsonl" >"$run/losses"
  printf '%s\n' "$run/losses"
}

# The largest relative difference between the lines of two files; 1 where their lengths differ.
distance() {
  paste "$1" "$2" | awk '{d = NF == 2 ? ($1 - $2) / $2 : 1; if (d != d) d = 1; if (d < 0) d = -d; if (d > worst) worst = d}
                         END {printf "%.2g", NR ? worst : 1}'
}

part_train() {
  local cpu gpu bits again words bad=0
  local wide=(model.width=384 model.heads=6 model.depth=6)
  cpu=$(train cpu train.device=CPU "${wide[@]}") || { headline "the run on the CPU failed"; return 1; }
  gpu=$(train gpu train.device=CUDA "${wide[@]}") || { headline "the run on the GPU failed"; return 1; }
  words="20 steps fp32: worst loss $(distance "$gpu" "$cpu") from the CPU's"
  awk -v d="$(distance "$gpu" "$cpu")" 'BEGIN {exit !(d < 1e-4)}' || { words+=", ALLOWED 1e-4"; bad=1; }
  headline "$words"
  # Deterministic: where products may be timed, another start may choose another algorithm.
  wide+=(train.device=CUDA train.precision=BF16 train.deterministic=true)
  bits=$(train bf16 "${wide[@]}") || { headline "$words; the run in bf16 failed"; return 1; }
  words+="; bf16 $(distance "$bits" "$cpu")"
  again=$(train bf16_no_graph "${wide[@]}" train.cuda_graph=false) && cmp "$bits" "$again" &&
    words+=", without a graph the same bits" || { words+=", without a graph OTHER BITS"; bad=1; }
  headline "$words"
  return $bad
}

# sanitize TOOL: the tests under compute-sanitizer.
sanitize() {
  local sanitizer status
  sanitizer=$(command -v compute-sanitizer || ls -d /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
  [[ -n $sanitizer ]] || skip "no compute-sanitizer on this machine"
  [[ -x $root/bin/cuda_tests ]] || skip "this bundle was built without CUDA"
  SHARDIT_RUN_UNDER="$sanitizer --tool $1 --error-exitcode 86" cuda_tests --gtest_filter="$tests" | tee "$out/$1.txt"
  status=${PIPESTATUS[0]}
  headline "$(count_tests "$out/$1.txt"); $(grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$out/$1.txt" | tail -n 1 | tr -d =)"
  return "$status"
}
part_memcheck() { sanitize memcheck; }
part_racecheck() { sanitize racecheck; }

part_step() {
  local case size batch precision words='' file
  [[ -x $root/bin/step_bench ]] || skip "no step_bench in this bundle"
  for case in XL/2:128:bf16 S/2:256:bf16 XL/2:32:bf16 B/2:256:bf16 XL/2:8:bf16 L/2:128:bf16 S/2:256:tf32 S/2:64:fp32; do
    IFS=: read -r size batch precision <<<"$case"
    file=$out/step_${size/\//}_${batch}_$precision.json
    step_bench --device cuda --size "$size" --batch "$batch" --precision "$precision" --graph on --steps 10 --json "$file" ||
      { words+="$size $batch $precision failed; "; headline "$words"; continue; }
    words+="$size $batch $precision $(sed -n 's/.*"images_per_s": \([0-9]*\).*/\1/p' "$file")/s"
    words+="$(sed -n 's/.*"mfu": \(0[.0-9]*\).*/\1/p' "$file" | awk '{printf " MFU %.0f%%", 100 * $1}'); "
    headline "${words%; }"
  done
  [[ $words != *failed* ]]
}

part_kernels() {
  local bench words='' bad=0
  for bench in "$root"/bin/cuda_*_bench; do
    [[ -x $bench ]] || skip "no kernel benchmarks in this bundle"
    bench=$(basename "$bench")
    echo "--- $bench"
    if "$bench" --json "$out/$bench.json"; then words+="$bench "; else bad=1 && words+="$bench FAILED "; fi
    headline "$words"
  done
  return $bad
}

# Every sharding, on ranks that share the GPU: the test of the commands, with the bundle's programs.
part_layouts() {
  local peer=${python:-$(command -v python3)}
  [[ -n $peer ]] && "$peer" -c 'import h5py, numpy' || skip "no python with h5py and numpy: --python"
  SHARDIT_CUDA_PROGRAM=$root/bin/shardit "$peer" -B "$root/tests/e2e/gpu_training.py" --shardit "$root/bin/shardit" \
    --mpirun "$root/bin/mpirun" --allow-run-as-root --oversubscribe --bind-to none
}

part_torch() {
  local peer=${python:-$(command -v python3)}
  [[ -n $peer ]] && "$peer" -c 'import torch; assert torch.cuda.is_available()' || skip "no python with torch and a GPU: --python"
  "$peer" -B "$root/bench/compare_step.py" --device cuda --step-bench "$root/bin/step_bench" --python "torch=$peer" \
    --rounds 1 --seconds $((PART_SECONDS - 10)) --headline "$out/torch.line" --out "$out/compare_step.json"
}

if [[ -n $single ]]; then
  "part_$single"
  exit
fi

begin=$SECONDS
run_part() {
  local part=$1 left=$((seconds - (SECONDS - begin))) status result took=$SECONDS allowed
  [[ $left -ge 10 ]] || return 0
  allowed=$((left < limit[$part] ? left : limit[$part]))
  rm -f "$out/$part.line"
  echo "--- $part (at most $allowed s; log: $out/$part.log)"
  PART_SECONDS=$allowed timeout --signal=TERM --kill-after=5 "$allowed" "$0" --out "$out" --python "$python" --tests "$tests" --single "$part" \
    >"$out/$part.log" 2>&1 </dev/null
  status=$?
  case $status in
    0) result=good ;;
    3) result=skipped ;;
    124 | 137) result=stopped ;;
    *) result=BAD ;;
  esac
  [[ -s $out/$part.line ]] || case $part in
    tests) count_tests "$out/cuda_tests.txt" ;;
    memcheck | racecheck) count_tests "$out/$part.txt" ;;
    *) tail -n 1 "$out/$part.log" ;;
  esac >"$out/$part.line" 2>/dev/null
  [[ $result != stopped ]] || ! grep -qE '(^| )[1-9][0-9]* failed' "$out/$part.line" || result=BAD
  printf '%s %d\n' "$result" $((SECONDS - took)) >"$out/$part.result"
  printf '    %s: %s\n' "$result" "$(cat "$out/$part.line")"
}

print_table() {
  local part result took
  printf '%-10s %-8s %5s  %s\n' part result s what
  for part in "${parts[@]}"; do
    result=waiting took=-
    [[ -e $out/$part.result ]] && read -r result took <"$out/$part.result"
    printf '%-10s %-8s %5s  %s\n' "$part" "$result" "$took" "$(cat "$out/$part.line" 2>/dev/null)"
  done
}

if [[ ${#chosen[@]} -eq 0 ]]; then
  for part in "${parts[@]}"; do [[ -e $out/$part.result ]] || chosen+=("$part"); done
fi
for part in "${chosen[@]}"; do
  run_part "$part"
  if [[ $part == device && $(<"$out/device.result") != good* ]]; then
    echo "no GPU that the program can use: the other parts wait"
    break
  fi
done
echo
print_table | tee "$out/table.txt"
for reader in "$python" python3; do
  command -v "${reader:-none}" >/dev/null || continue
  "$reader" -B "$root/bench/gpu_report.py" "$out" | tee "$out/report.md"
  break
done
! grep -q '^BAD' "$out"/*.result
