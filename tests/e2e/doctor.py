#!/usr/bin/env python3
"""shardit doctor on this machine, under mpirun, and where there is nothing that starts ranks."""
import json
import os
import subprocess

from harness import Harness

NAMES = ["program", "cores", "memory", "gpu", "folder", "disk", "HDF5", "MPI", "Slurm", "ranks"]


def main():
    t = Harness()
    before = t.files()
    done = t.run("doctor", "--json")
    t.expect(done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    t.expect([name for name in rows if name in NAMES] == NAMES, f"findings: {list(rows)}")
    t.expect(all(row["good"] for row in rows.values()), f"something is bad: {rows}")
    t.expect("mpirun" in rows["ranks"]["detail"] and "commits/s" in rows["disk"]["detail"], f"details: {rows}")
    t.expect(t.files() == before, "files were left behind")
    done = t.run("doctor", ranks=2)
    t.expect(done.returncode == 0 and "2 ranks of this launch line" in done.stdout.splitlines()[-1], f"{done.stdout}")
    # Without mpirun, without Slurm.
    tools = t.folder / "tools"
    tools.mkdir()
    for name in ("sh", "timeout"):
        os.symlink(f"/usr/bin/{name}", tools / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([t.program, "doctor"], cwd=t.folder, capture_output=True, text=True, check=False,
                          env={**environment, "PATH": str(tools)})
    t.expect(done.returncode == 74, f"nothing starts ranks: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    last = done.stdout.splitlines()[-1]
    t.expect(last.startswith("BAD  ranks") and "openmpi-bin" in last, f"nothing starts ranks: {done.stdout}")
    t.expect("ok   Slurm     none" in done.stdout, f"no Slurm: {done.stdout}")
    t.finish()


if __name__ == "__main__":
    main()
