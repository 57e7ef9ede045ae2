// A study as one Slurm job array, an element for each unfinished task, and a job after it that sums up. What a study
// says goes into the scripts quoted or not at all: no name or setting can become a command or an #SBATCH line of its
// own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shardit {

// 0 and empty mean: not said, the site decides.
struct SlurmResources {
  int64_t nodes = 0;
  int64_t tasks_per_node = 0;
  int64_t cpus_per_task = 0;
  int64_t gpus_per_node = 0;
  std::string time;  // as sbatch takes it: "90", "1-12:00:00"
  std::string partition;
  std::string account;
  std::string qos;
  int64_t max_running = 0;         // elements at a time
  int64_t signal_seconds = 120;    // how long before the time limit tasks are told to stop
  std::vector<std::string> setup;  // lines of the script before the program runs ("module load openmpi"): the user's
                                   // own commands, one line each
};

struct SlurmArray {
  std::string job_name;
  std::string folder;                // for scripts and logs: STUDY/jobs; made
  std::vector<int64_t> indices;      // of the tasks to run, ascending, at least one
  std::vector<std::string> command;  // argv; the element's number follows as the last word
  std::vector<std::string> summary;  // argv of the job after the array; empty: none
  SlurmResources resources;
};

// "0,3-5" or "0,3-5%2".
std::string ArraySpec(const std::vector<int64_t>& indices, int64_t max_running);

// The two scripts; `array_job` may be several, "12:13". InvalidArgument (exit code 64) names a value that cannot stand
// in one.
absl::StatusOr<std::string> ArrayScript(const SlurmArray& array);
absl::StatusOr<std::string> SummaryScript(const SlurmArray& array, const std::string& array_job);

struct SubmittedStudy {
  std::string array_job, summary_job;  // Slurm's job ids; empty where there was none
};
// Writes the scripts into `folder` as <stem>.sbatch and <stem>_summary.sbatch and submits them. Unavailable (exit code
// 74) with sbatch's own words where it refuses or is missing.
absl::StatusOr<SubmittedStudy> SubmitArray(const SlurmArray& array, const std::string& stem);

// The summary alone, for a study of several arrays: it waits for all of `array_jobs` ("12:13"). Its job id.
absl::StatusOr<std::string> SubmitSummary(const SlurmArray& array, const std::string& array_jobs,
                                          const std::string& stem);

}  // namespace shardit
