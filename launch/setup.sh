# Sourced by the scripts of this folder: installs what is missing, configures and builds preset $1 (all of it, or only
# the targets that follow). Leaves the shell in the root of the repository, with `shardit` and `mpirun_args` defined.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./launch/install_deps.sh

# Open MPI refuses to run as root, and to start more ranks than cores, unless told. It is quiet about exit code 75.
mpirun_args=(--quiet --allow-run-as-root --oversubscribe --bind-to none)

# build_preset PRESET [TARGET...]: quiet unless it fails.
build_preset() {
  local preset=$1 log=build/$1.log
  shift
  mkdir -p build
  if ! { cmake --preset "$preset" && cmake --build --preset "$preset" ${@:+--target "$@"}; } >"$log" 2>&1; then
    grep -E -A 3 'error|FAILED' "$log" | tail -n 60 >&2 || tail -n 60 "$log" >&2
    echo "the build of preset $preset failed; the whole log: $log" >&2
    return 1
  fi
  shardit=$PWD/build/$preset/bin/shardit
}
