#!/usr/bin/env python3
"""launch/bundle.sh: the tarball of this build runs from another folder, in an empty environment, with nothing of this
machine but glibc. With SHARDIT_LONG_TESTS also the kind that is made where patchelf is missing."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

from harness import Harness, losses

SOURCE = pathlib.Path(__file__).resolve().parents[2]
GLIBC = re.compile(r"(ld-linux.*|lib(c|m|pthread|dl|rt|resolv|util|anl|mvec|nss_\w+))\.so\.\d+$")
CUDA = re.compile(r"lib(cuda|cudart|cublas|cublasLt|nccl|nv.*)\.so")
# All that the start scripts call, and doctor. No mpirun, and no ssh, which Open MPI would look for.
TOOLS = ["sh", "bash", "basename", "dirname", "readlink", "getconf", "timeout"]
MPIRUN = ["bin/mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


class Bundle:
    def __init__(self, t, kind, *flags):
        self.t = t
        tarball = t.folder / f"{kind}.tar.gz"
        done = subprocess.run([SOURCE / "launch/bundle.sh", "--build", pathlib.Path(t.program).parents[1], "--out", tarball,
                               *flags], capture_output=True, text=True, check=False)
        t.expect(done.returncode == 0, f"bundle.sh: exit code {done.returncode}: {done.stderr}")
        t.expect(tarball.stat().st_size < 64 * 2 ** 20, f"bundle.sh: {tarball.stat().st_size} bytes")
        self.report = done.stdout
        with tarfile.open(tarball) as tar:
            tar.extractall(t.folder / f"a folder of {kind}")
        (self.root,) = (t.folder / f"a folder of {kind}").iterdir()
        self.files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        self.elf = [path for path in self.files if is_elf(path)]
        tools = t.folder / f"tools of {kind}"
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).symlink_to(shutil.which(tool))
        self.environment = {"PATH": str(tools)}

    def run(self, *command, **environment):
        return subprocess.run([self.root / command[0], *map(str, command[1:])], capture_output=True, text=True, timeout=600,
                              cwd=self.root, env=self.environment | environment, check=False)


def check_needs(bundle):
    """What the files of the bundle ask the loader for is in the bundle, or glibc's; nothing of CUDA's."""
    t = bundle.t
    ours = {path.name for path in bundle.elf}
    t.expect(len(bundle.elf) > 100, f"only {len(bundle.elf)} programs and libraries")
    t.expect(not [name for name in ours if GLIBC.match(name)], "glibc's own libraries are in the bundle")
    versions = []
    for path in bundle.elf:
        headers = text_of("objdump", "-p", path)
        for need in re.findall(r"NEEDED +(\S+)", headers):
            t.expect(need in ours or GLIBC.match(need), f"{path.name} needs {need}")
            t.expect(not CUDA.match(need), f"{path.name} is linked to {need}")
        t.expect(str(SOURCE) not in headers, f"{path.name} names the source folder")
        versions += [tuple(map(int, version)) for version in re.findall(r"GLIBC_(\d+)\.(\d+)", headers)]
    floor = "{}.{}".format(*max(versions))
    t.expect(f"glibc {floor} or newer" in bundle.report, f"glibc {floor} is needed, but: {bundle.report}")
    t.expect(f"glibc {floor} or newer" in (bundle.root / "README.md").read_text(), f"README does not tell of glibc {floor}")


def check_found(bundle):
    """What the loader took, plugins included, when a rank was started."""
    done = bundle.run(*MPIRUN, "-n", 1, "bin/shardit", "models", LD_DEBUG="libs")
    taken = set(re.findall(r"calling init: (\S.*)", done.stderr))
    bundle.t.expect(len(taken) > 50, f"the loader's report holds {len(taken)} files: {done.stderr[-500:]}")
    for path in taken:
        inside = path.startswith(str(bundle.root))
        bundle.t.expect(inside != bool(GLIBC.search(path.split("/")[-1])), f"the loader took {path}")


def check_programs(bundle):
    t = bundle.t
    done = bundle.run("bin/shardit", "models", "--json")
    t.expect(done.returncode == 0 and len(json.loads(done.stdout)) == 48, f"models: {done.returncode} {done.stderr}")
    link = t.folder / "shardit through a link"
    link.unlink(missing_ok=True)
    link.symlink_to(bundle.root / "bin/shardit")
    done = bundle.run(link, "--version")
    t.expect(done.returncode == 0 and done.stdout.startswith("shardit "), f"--version through a link: {done}")
    done = bundle.run(*MPIRUN, "-n", 2, "bin/shardit", "train", "--config", "configs/stripes.textproto", "--out", "run")
    t.expect(done.returncode == 0, f"train: exit code {done.returncode}: {done.stderr}")
    found = losses(bundle.root / "run")
    t.expect(len(found) == 20 and found[-1] < 0.8 * found[0], f"train: losses {found}")
    done = bundle.run("bin/shardit", "doctor", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    t.expect(rows["ranks"]["good"] and "mpirun" in rows["ranks"]["detail"], f"doctor: {rows}")
    t.expect(rows["gpu"]["detail"].startswith("none: ") != os.path.exists("/dev/nvidiactl"), f"doctor: {rows}")


def check_cuda_tests(bundle):
    """They are there where the build has CUDA; without a GPU each says that it was skipped."""
    t = bundle.t
    t.expect((bundle.root / "bin/cuda_tests").exists() == (pathlib.Path(t.program).parent / "cuda_tests").exists(),
             "bin/cuda_tests: in the bundle or not, unlike in the build")
    if not (bundle.root / "bin/cuda_tests").exists():
        return
    listed = bundle.run("bin/cuda_tests", "--gtest_list_tests").stdout
    count = sum(line.startswith("  ") for line in listed.splitlines())
    t.expect(count > 10, f"cuda_tests lists {count} tests")
    if os.path.exists("/dev/nvidiactl"):
        return
    done = bundle.run("bin/cuda_tests", "--gtest_brief=0")
    t.expect(done.returncode == 0, f"cuda_tests without a GPU: exit code {done.returncode}: {done.stdout[-1000:]}")
    t.expect(re.search(r"\[  SKIPPED \] [1-9]", done.stdout), f"cuda_tests names no skipped test: {done.stdout[-1000:]}")


def check_gpu_check(bundle):
    """Names its parts; refuses others."""
    done = bundle.run("bin/gpu_check", "--list")
    bundle.t.expect(done.returncode == 0 and "tests" in done.stdout.split(), f"gpu_check --list: {done}")
    done = bundle.run("bin/gpu_check", "everything")
    bundle.t.expect(done.returncode == 64 and "no part everything" in done.stderr, f"gpu_check everything: {done}")


def check_old_machine(bundle):
    settings = bundle.root / "libexec/settings"
    settings.write_text(re.sub(r"glibc_floor=.*", "glibc_floor=2.999", settings.read_text()))
    done = bundle.run("bin/shardit", "models")
    bundle.t.expect(done.returncode == 69 and done.stdout == "", f"old glibc: {done}")
    bundle.t.expect(re.fullmatch(r"shardit: this bundle needs glibc 2\.999 or newer; this machine has 2\.\d+\n", done.stderr),
                    f"old glibc: {done.stderr}")


def check(bundle):
    check_needs(bundle)
    check_found(bundle)
    check_programs(bundle)
    check_cuda_tests(bundle)
    check_gpu_check(bundle)
    check_old_machine(bundle)


def main():
    t = Harness()
    check(Bundle(t, "bundle"))
    if os.environ.get("SHARDIT_LONG_TESTS") and shutil.which("patchelf"):
        check(Bundle(t, "library path", "--no-patchelf"))
    t.finish()


if __name__ == "__main__":
    main()
