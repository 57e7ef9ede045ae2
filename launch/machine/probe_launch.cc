// What starts ranks: MPI, Slurm, and the line that works.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "launch/machine/launch_line.h"
#include "launch/machine/probes.h"
#include "parallel/comm/mpi_check.h"

namespace shardit {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);

// The first line that the command prints; empty where it fails or does not answer in time.
std::string FirstLine(const std::string& command) {
  std::FILE* pipe = popen(absl::StrCat("timeout --kill-after=1 5 ", command, " </dev/null 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  std::string text;
  char part[256];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) text += part;
  if (pclose(pipe) != 0) return "";
  return std::string(absl::StripAsciiWhitespace(text.substr(0, text.find('\n'))));
}

Finding ProbeMpi() {
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_CHECK(MPI_Get_library_version(library, &length));
  const std::string name = std::vector<std::string>(absl::StrSplit(library, ','))[0];
  const std::string launcher = FirstLine("mpirun --version");
  return {"MPI", !launcher.empty(),
          absl::StrCat(name, "; ", launcher.empty() ? "no mpirun in PATH; install openmpi-bin" : launcher)};
}

Finding ProbeSlurm() {
  if (FirstLine("sh -c 'command -v sbatch'").empty()) return {"Slurm", true, "none: no sbatch in PATH"};
  // Without a slurm.conf not even the version is said. The packages alone are a kind of machine, not a fault.
  const std::string version = FirstLine("sbatch --version");
  if (version.empty()) return {"Slurm", true, "installed, but it finds no cluster"};
  const char* job = std::getenv("SLURM_JOB_ID");
  if (job != nullptr) {
    const char* task = std::getenv("SLURM_ARRAY_TASK_ID");
    const char* array = std::getenv("SLURM_ARRAY_JOB_ID");
    // An array's number is its last element's, too.
    const std::string id = task != nullptr && array != nullptr ? absl::StrCat(array, "_", task) : job;
    const std::string about =
        FirstLine(absl::StrCat("squeue --noheader --jobs=", id, " --format='partition %P, %D node(s), %L left'"));
    return {"Slurm", !about.empty(),
            absl::StrCat(version, ", in job ", id, ": ", about.empty() ? "squeue does not know it" : about)};
  }
  const bool answers = !FirstLine("scontrol ping").empty();
  return {"Slurm", true,
          absl::StrCat(version, ", outside a job",
                       answers ? "; run doctor inside one, too" : "; its controller does not answer")};
}

// Ranks as the allocation has them, so that all of its nodes take part.
int RanksToTry() {
  const char* text = std::getenv("SLURM_NTASKS");
  int tasks = 0;
  return text != nullptr && absl::SimpleAtoi(text, &tasks) ? std::max(tasks, 2) : 2;
}

Finding ProbeRanks(int ranks) {
  const absl::StatusOr<std::string> line = FindLaunchLine(ranks, kPatience);
  if (!line.ok()) return {"ranks", false, std::string(line.status().message())};
  return {"ranks", true, absl::StrCat(*line, " -n ", ranks, " shardit train ...")};
}

}  // namespace

std::vector<Finding> ProbeLaunch(int world_size) {
  std::vector<Finding> findings = {ProbeMpi(), ProbeSlurm()};
  findings.push_back(
      world_size > 1 ? Finding{"ranks", true, absl::StrCat(world_size, " ranks of this launch line found each other")}
                     : ProbeRanks(RanksToTry()));
  return findings;
}

}  // namespace shardit
