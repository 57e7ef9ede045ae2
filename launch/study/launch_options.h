// The parts that every description of a study has: the runs it starts from, how commands are started, what Slurm is
// asked for (configs/sweep.proto).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "configs/run_config.pb.h"
#include "configs/sweep.pb.h"
#include "google/protobuf/repeated_field.h"
#include "launch/study/slurm_array.h"

namespace shardit {

// The ranges are those of config::Launch.
struct LaunchOptions {
  int64_t ranks = 1;
  int64_t threads = 0;  // 0: the share of the cores
  std::string command;  // empty: chosen
  int64_t parallel_runs = 1;
  int64_t max_restarts = 3;
};
LaunchOptions ToLaunchOptions(const config::Launch& launch);
SlurmResources ToSlurmResources(const config::Slurm& slurm);

// The words before the program that start `ranks` ranks of it: those of options.command, with "{ranks}" replaced or
// "-n RANKS" at the end; without a command none for one rank, else the first line that works here, which is tried out
// and takes some seconds (launch/machine/launch_line.h). Unavailable (exit code 74) where none works.
absl::StatusOr<std::vector<std::string>> LaunchWords(const LaunchOptions& options, int64_t ranks);

// Run descriptions merged from left to right, and then `run`. Every error is InvalidArgument (exit code 64).
absl::StatusOr<config::RunConfig> MergeRun(const google::protobuf::RepeatedPtrField<std::string>& base,
                                           const config::RunConfig& run);

// Letters, digits and "._-", neither "." nor "-" first: safe in paths, options, scripts and job lists.
bool IsPlainName(const std::string& name);

}  // namespace shardit
