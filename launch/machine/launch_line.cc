#include "launch/machine/launch_line.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/machine/shell.h"

namespace shardit {

std::vector<std::string> LaunchLinesToTry() {
  // Open MPI would bind each of two ranks to one core; ours bind themselves to their share of all they may use.
  std::vector<std::string> lines = {"mpirun --bind-to none", "mpirun --oversubscribe --bind-to none",
                                    "mpirun --allow-run-as-root --oversubscribe --bind-to none"};
  // Outside an allocation srun would ask for one and wait in the queue.
  if (std::getenv("SLURM_JOB_ID") != nullptr) {
    lines.insert(lines.end(), {"srun --overlap --mpi=pmix", "srun --overlap --mpi=pmi2"});
  }
  return lines;
}

bool LaunchLineWorks(const std::string& line, int ranks, absl::Duration patience) {
  // mpirun and srun end their ranks at TERM; KILL is for what does not listen.
  const std::string command = absl::StrCat("timeout --kill-after=5 ", absl::ToInt64Seconds(patience), " ", line, " -n ",
                                           ranks, " ", ShellWord(OwnPath()), " doctor --probe </dev/null 2>/dev/null");
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return false;
  std::string answer;
  char part[256];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) answer += part;
  return pclose(pipe) == 0 && answer.find(absl::StrCat("shardit probe: ", ranks, " ranks")) != std::string::npos;
}

absl::StatusOr<std::string> FindLaunchLine(int ranks, absl::Duration patience) {
  if (ranks == 1) return "";
  const std::vector<std::string> lines = LaunchLinesToTry();
  for (const std::string& line : lines) {
    if (LaunchLineWorks(line, ranks, patience)) return line;
  }
  return absl::UnavailableError(absl::StrCat("launch line: none started ", ranks,
                                             " ranks (tried: ", absl::StrJoin(lines, "; "),
                                             "); is openmpi-bin installed? try: mpirun -n 2 hostname"));
}

}  // namespace shardit
