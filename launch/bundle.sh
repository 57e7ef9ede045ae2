#!/usr/bin/env bash
# Packs the built programs into one tarball that runs on other machines of this processor: with every shared library
# they need, Open MPI's runtime included, but for glibc, the CUDA driver and the CUDA libraries, which belong to the
# machine. Prints what it made and the oldest glibc that will do.
# usage: launch/bundle.sh [--build DIR] [--out FILE] [--no-patchelf]
#   --build DIR     a build tree; without it preset release is built with everything in it
#   --out FILE      default: DIR/shardit-VERSION-PROCESSOR.tar.gz
#   --no-patchelf   let the start script point at the libraries (LD_LIBRARY_PATH) even where patchelf is installed
set -euo pipefail
called_from=$PWD build='' out='' patchelf=1
while [[ $# -gt 0 ]]; do
  [[ $# -gt 1 || $1 == --no-patchelf ]] || set -- --help
  case "$1" in
    --build) build=$(realpath "$2"); shift 2 ;;
    --out) out=$(realpath -m "$called_from/$2"); [[ $2 == /* ]] && out=$2; shift 2 ;;
    --no-patchelf) patchelf=0; shift ;;
    *) echo "usage: launch/bundle.sh [--build DIR] [--out FILE] [--no-patchelf]" >&2; exit 64 ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
fail() { echo "bundle.sh: $*" >&2; exit 1; }
command -v patchelf >/dev/null || patchelf=0

if [[ -z $build ]]; then
  ./launch/install_deps.sh test
  build_preset release ON
  build=$PWD/build/release
fi
[[ -x $build/bin/shardit ]] || fail "no program at $build/bin/shardit: build it first"
version=$("$build/bin/shardit" --version | sed -n '1s/[^0-9]*\([0-9][0-9.]*\).*/\1/p')
name=shardit-$version-$(uname -m)
out=${out:-$build/$name.tar.gz}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name
mkdir -p "$root"/{bin,bench,configs,data,etc/openmpi,lib/openmpi3,lib/pmix,libexec,share/openmpi,share/pmix,share/doc}

# --- Programs: ours, and what starts ranks.
programs=(shardit)
for path in "$build"/bin/{cuda_tests,step_bench,cuda_*_bench}; do
  if [[ -x $path ]]; then programs+=("$(basename "$path")"); fi
done
for program in "${programs[@]}"; do cp "$build/bin/$program" "$root/libexec/"; done
for program in mpirun orted; do cp -L "$(command -v $program)" "$root/libexec/$program"; done

# --- Open MPI's plugins: those for fabrics and for OpenSHMEM would bring their drivers' libraries along and stay
# behind; ranks of one machine talk through shared memory, those of several over TCP.
ompi() { ompi_info --parsable --path "$1" | sed "s/^path:$1://"; }
libraries_of() { ldd "$@" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u; }
left_behind='lib(ucp|ucs|uct|ucm|fabric|psm|psm_infinipath|psm2|ibverbs|oshmem|nl-3|mca_common_monitoring)[.]'
for plugin in "$(ompi pkglibdir)"/mca_*.so; do
  libraries_of "$plugin" | grep -qE "$left_behind" || cp "$plugin" "$root/lib/openmpi3/"
done
cp "$(ompi pkgdatadir)"/help-*.txt "$root/share/openmpi/"
cp configs/README.md configs/*.textproto "$root/configs/"
cp -r configs/clusters "$root/configs/"
cat >"$root/etc/openmpi/openmpi-mca-params.conf" <<'END'
btl_base_warn_component_unused = 0
END
pmix=$(libraries_of "$root"/lib/openmpi3/*.so | grep '/libpmix[.]' || true)
if [[ -n $pmix ]]; then
  pmix=$(dirname "$(readlink -f "$pmix")")
  cp "$pmix"/pmix/*.so "$root/lib/pmix/"
  cp "$pmix"/../share/pmix/help-*.txt "$root/share/pmix/"
fi

# --- Libraries: the closure of all of these, less glibc's own and the driver's.
glibc='/(ld-linux.*|lib(c|m|pthread|dl|rt|resolv|util|anl|mvec|nss_[a-z]*|BrokenLocale|thread_db))[.]so'
cuda='/lib(cuda|cudart|cublas|cublasLt|nccl|cudnn|nvrtc|nvJitLink|nvidia-[a-z]*)[.]so'
mapfile -t carriers < <(find "$root" -type f \( -path '*/libexec/*' -o -name '*.so' \))
missing=$(ldd "${carriers[@]}" | grep 'not found' || true)
[[ -z $missing ]] || fail "libraries that this machine itself lacks: $missing"
mapfile -t libraries < <(libraries_of "${carriers[@]}" | grep -vE "$glibc")
for library in "${libraries[@]}"; do
  [[ ! $library =~ $cuda ]] || fail "a program is linked to $library: CUDA libraries are to be opened at run time"
  cp -L "$library" "$root/lib/"
done

# --- Where they came from, with their licences.
mapfile -t origins < <(printf '%s\n' "${libraries[@]}" "$(ompi pkglibdir)/mca_btl_self.so" "$(readlink -f "$(command -v mpirun)")")
mapfile -t packages < <(dpkg-query -S "${origins[@]}" "${origins[@]/#//usr}" 2>/dev/null | sed 's/:.*//' | sort -u)
dpkg-query -W -f '${Package} ${Version}\n' "${packages[@]}" | sort -u >"$root/share/doc/packages.txt"
for package in "${packages[@]}"; do
  [[ -e /usr/share/doc/$package/copyright ]] || continue
  mkdir -p "$root/share/doc/$package"
  cp -L "/usr/share/doc/$package/copyright" "$root/share/doc/$package/"
done

# --- Small, and found from wherever the folder lies. DT_RPATH, not DT_RUNPATH: a library path in the machine's
# environment must not put other libraries of these names before ours.
mapfile -t files < <(find "$root/lib" "$root/libexec" -type f)
chmod u+w "${files[@]}"
strip --strip-unneeded "${files[@]}"
if [[ $patchelf -eq 1 ]]; then
  patchelf --force-rpath --set-rpath '$ORIGIN/../lib' "$root"/libexec/*
  patchelf --force-rpath --set-rpath '$ORIGIN' "$root"/lib/*.so*
  for plugin in "$root"/lib/{openmpi3,pmix}/*.so; do patchelf --force-rpath --set-rpath '$ORIGIN/..' "$plugin"; done
fi
floor=$(objdump -T "${files[@]}" 2>/dev/null | grep -oE 'GLIBC_[0-9]+[.][0-9]+' | sort -uV | tail -n 1)
floor=${floor#GLIBC_}
printf 'glibc_floor=%s\nuse_library_path=%s\n' "$floor" $((1 - patchelf)) >"$root/libexec/settings"

# --- How they are started, and what else a user of the folder wants.
for program in "${programs[@]}" mpirun orted; do install -m 755 launch/bundle_start.sh "$root/bin/$program"; done
install -m 755 launch/bundle_gpu_check.sh "$root/bin/gpu_check"
cp tests/bench/{compare_step,torch_step,gpu_report}.py "$root/bench/"
cp LICENSE "$root/"
mkdir -p "$root"/tests/{golden,e2e}
cp -r tests/golden/cases "$root/tests/golden/"
cp tests/e2e/{harness,gpu_training}.py "$root/tests/e2e/"
python3 -B launch/bundle_data.py "$work/images" "$work/labels"
"$build/bin/shardit" data import-idx --images "$work/images" --labels "$work/labels" --out "$root/data/stripes.h5" >/dev/null
cp launch/bundle_stripes.textproto "$root/configs/stripes.textproto"
{
  cat launch/bundle_readme.md
  printf '\n## This bundle\n\n'
  "$build/bin/shardit" --version | sed 's/^/    /'
  printf '\n- needs glibc %s or newer, on %s\n- programs: %s\n' "$floor" "$(uname -m)" "${programs[*]}"
} >"$root/README.md"

mkdir -p "$(dirname "$out")"
tar -C "$work" --owner=0 --group=0 --sort=name -c "$name" | gzip -9 >"$out.part"
mv "$out.part" "$out"
bytes=$(stat -c %s "$out")
printf '%s: %d MiB, %d libraries, glibc %s or newer, %s\n' "$out" $((bytes >> 20)) "${#libraries[@]}" "$floor" "${programs[*]}"
[[ $bytes -le $((64 << 20)) ]] || fail "larger than 64 MiB"
