#!/usr/bin/env bash
# Installs the Debian 12 packages that build and run Shardit (`run`) or that test it as well (`test`, the default). Quick
# when all are present; takes no question.
# usage: launch/install_deps.sh [run|test]
set -euo pipefail

packages=(
  # build
  g++ cmake make ninja-build ccache pkg-config
  # libraries
  libopenmpi-dev openmpi-bin libhdf5-dev libprotobuf-dev protobuf-compiler libabsl-dev libspdlog-dev libfmt-dev
  libhwy-dev libhwloc-dev nlohmann-json3-dev libcli11-dev libpng-dev zlib1g-dev libssl-dev
  libopenblas-dev liblapacke-dev
  # figures of reports
  gnuplot-nox
  # data of the quickstart
  dataset-fashion-mnist
)
case "${1:-test}" in
  run) ;;
  test) packages+=(libgtest-dev libgmock-dev librandom123-dev clang-format git python3 python3-numpy python3-h5py
                  slurm-wlm munge procps) ;;
  *) echo "usage: launch/install_deps.sh [run|test]" >&2; exit 64 ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ $(id -u) -eq 0 ]]; then
  as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo)
else
  echo "install_deps.sh: packages are missing and neither root nor passwordless sudo is at hand; run as root:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi

echo "installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "install_deps.sh: apt-get failed (its last lines are above); run: apt-get install ${missing[*]}" >&2
  exit 1
fi
