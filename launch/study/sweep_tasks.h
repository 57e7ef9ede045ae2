// The tasks of a sweep: for every run, train it, then score it at its steps.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launch/study/sweep.h"
#include "launch/study/task.h"

namespace shardit {

// The task of a run, which refers to `sweep` and `run`. `launch`: the words that start the ranks (LaunchWords).
Task MakeTask(const SweepStudy& sweep, const SweepRun& run, const std::vector<std::string>& launch);

// Writes what the tasks read: the run descriptions, OUT/configs/<name>.textproto, and the sweep's own text,
// OUT/sweep.textproto. FailedPrecondition (exit code 64) where the folder is another study's.
absl::Status WriteSweepFiles(const SweepStudy& sweep);

// InvalidArgument (exit code 64) where a file that scores depend on cannot be read: better now than after hours.
absl::Status CheckScoreFiles(const SweepStudy& sweep);

}  // namespace shardit
