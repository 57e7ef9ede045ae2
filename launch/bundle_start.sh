#!/bin/sh
# The one start script of a bundle (launch/bundle.sh): bin/<program> is a copy of it. Tells Open MPI, PMIx and hwloc,
# which were built for fixed places, where this folder lies, and becomes libexec/<program>; with SHARDIT_RUN_UNDER in
# the environment (a profiler and its flags, say), that command with libexec/<program> as its argument.
self=$(readlink -f "$0")
program=$(basename "$self")
root=$(dirname "$(dirname "$self")")
glibc_floor=2.0 use_library_path=0
. "$root/libexec/settings"

# The machine's glibc, "glibc 2.36"; the loader's own complaint would be one line for every symbol.
have=$(getconf GNU_LIBC_VERSION 2>/dev/null)
have=${have#glibc }
if [ -n "$have" ] && [ "${have#*.}" -lt "${glibc_floor#*.}" ]; then
  echo "$program: this bundle needs glibc $glibc_floor or newer; this machine has $have" >&2
  exit 69
fi

export OPAL_PREFIX="$root" OPAL_BINDIR="$root/bin" OPAL_LIBDIR="$root/lib"
export OPAL_DATADIR="$root/share" OPAL_PKGDATADIR="$root/share/openmpi" OPAL_SYSCONFDIR="$root/etc/openmpi"
export PMIX_PREFIX="$root" PMIX_LIBDIR="$root/lib" PMIX_PKGLIBDIR="$root/lib/pmix" PMIX_PKGDATADIR="$root/share/pmix"
export PMIX_SYSCONFDIR="$root/etc" HWLOC_PLUGINS_PATH="$root/lib/hwloc"
# Without a remote shell Open MPI gives up even where all ranks are on this machine.
if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null; then export OMPI_MCA_plm="${OMPI_MCA_plm:-^rsh}"; fi
export PATH="$root/bin:${PATH:-/usr/local/bin:/usr/bin:/bin}"
if [ "$use_library_path" = 1 ]; then
  export LD_LIBRARY_PATH="$root/lib:$root/lib/openmpi3${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
# For tests, which know the source tree's place.
export SHARDIT_GOLDEN_CASES="$root/tests/golden/cases"
case $program in mpirun | orted) unset under ;; *) under=${SHARDIT_RUN_UNDER:-} ;; esac
exec ${under:-} "$root/libexec/$program" "$@"
