// What `shardit doctor` looks at, one function a concern. Each looks for seconds, never hangs, and leaves nothing
// behind.
#pragma once

#include <string>
#include <vector>

namespace shardit {

struct Finding {
  std::string name;  // at most 9 letters: a column
  bool good = true;  // false: something that this machine should have does not work
  std::string detail;
};

// GPUs, driver and the libraries that training on them opens; one line where there is no GPU, which is a kind of
// machine and not a fault.
std::vector<Finding> ProbeGpus();

// The folder that a run would write into: free space, kind of file system, rates of writing and of commits (create,
// fsync, rename, fsync of the folder), an HDF5 file written and read. Works in a folder of its own there.
std::vector<Finding> ProbeFolder(const std::string& folder);

// MPI, Slurm, and the launch line that works here, last (launch/machine/launch_line.h). `world_size` ranks have met
// already: above 1 there is nothing left to find.
std::vector<Finding> ProbeLaunch(int world_size);

}  // namespace shardit
