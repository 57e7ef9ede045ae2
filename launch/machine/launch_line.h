// The words that start several ranks on this machine or in this Slurm allocation, found by trying.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shardit {

// The launch lines worth trying, the plainest first: mpirun of this machine's MPI, which inside an allocation finds
// nodes and ranks itself, then, inside a Slurm allocation, srun.
std::vector<std::string> LaunchLinesToTry();

// Whether `line -n RANKS shardit doctor --probe` starts `ranks` ranks of this program that find each other within
// `patience`. What it started is gone when this returns.
bool LaunchLineWorks(const std::string& line, int ranks, absl::Duration patience = absl::Seconds(20));

// The first of these lines that works, to be followed by `-n RANKS shardit ...`; "" at once for one rank. Unavailable,
// with the lines that were tried, where none works. Not for a process that runs under mpirun itself.
absl::StatusOr<std::string> FindLaunchLine(int ranks, absl::Duration patience = absl::Seconds(20));

}  // namespace shardit
