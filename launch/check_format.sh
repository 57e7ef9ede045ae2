#!/usr/bin/env bash
# Fails, naming the lines, when a C++ or CUDA file is not formatted as .clang-format says. To fix: add --fix.
# usage: launch/check_format.sh [--fix]
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(--dry-run --Werror)
[[ ${1:-} == --fix ]] && mode=(-i)
find core model parallel data trainer launch tests -type f \
  \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r -n 16 -P "$(nproc)" clang-format "${mode[@]}"
