#!/usr/bin/env bash
# Installs what is missing, builds preset release with every test and runs them all. Leaves the checkout clean.
# --long runs the campaigns whole, of which the plain run is a fixed-seed cut, and the sanitizer builds.
# usage: launch/test.sh [--long]
set -euo pipefail
long=0
case "${1:-}" in
  "") ;;
  --long) long=1 ;;
  *) echo "usage: launch/test.sh [--long]" >&2; exit 64 ;;
esac
source "$(dirname "$0")/setup.sh"
./launch/install_deps.sh test

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [[ $long -eq 1 ]]; then
  export SHARDIT_LONG_TESTS=1
  for preset in asan ubsan; do
    build_preset "$preset" ON
    ctest --test-dir "build/$preset" --output-on-failure -L unit
    "build/$preset/bin/layout_grid" --steps 2
  done
  build_preset tsan ON
  # One process with ranks as threads: MPI itself is not built for the thread sanitizer.
  ctest --test-dir build/tsan --output-on-failure -L unit
  build/tsan/bin/layout_grid --steps 2
fi
build_preset release ON
if [[ $long -eq 1 ]]; then build/release/bin/layout_grid; fi
if [[ $long -eq 1 ]] && /usr/bin/python3 -c 'import torch' 2>/dev/null; then
  /usr/bin/python3 -B tests/golden/parity_random.py --binary build/release/bin/shardit --cases 200 --seed 1
fi
# A container may see more cores than it is given.
jobs=$(nproc)
# Last, so that the closing lines are ctest's own.
ctest --test-dir build/release --output-on-failure --parallel "$((jobs < 8 ? jobs : 8))"
