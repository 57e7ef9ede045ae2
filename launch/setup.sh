# Sourced by the scripts of this folder, from any folder: goes to the root of the repository and defines what they share.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Open MPI refuses to run as root, and to start more ranks than cores, unless told. It is quiet about exit code 75.
mpirun_args=(--quiet --allow-run-as-root --oversubscribe --bind-to none)

# build_preset PRESET ON|OFF [TARGET...]: configures, with the tests or without, and builds everything or the targets.
# Quiet unless it fails. Sets `shardit` to the program.
build_preset() {
  local preset=$1 testing=$2 log=build/$1.log
  shift 2
  mkdir -p build
  if ! { cmake --preset "$preset" -DBUILD_TESTING="$testing" && cmake --build --preset "$preset" ${@:+--target "$@"}; } >"$log" 2>&1; then
    grep -E -A 3 'error|FAILED' "$log" | tail -n 60 >&2 || tail -n 60 "$log" >&2
    echo "the build of preset $preset failed; the whole log: $log" >&2
    return 1
  fi
  shardit=$PWD/build/$preset/bin/shardit
}
