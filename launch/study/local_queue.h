// Runs the tasks of a study on this machine, so many at a time, each on processors of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "launch/study/stop_relay.h"
#include "launch/study/task.h"

namespace shardit {

struct LocalQueueOptions {
  int64_t parallel = 1;      // tasks at a time, >= 1
  int64_t max_restarts = 3;  // TaskOptions::max_restarts
  // After every task that ended, one call at a time.
  std::function<void(const Task& task, const TaskRecord& record)> ended;
};

// The tasks in order; one that fails does not hold up the others. Returns how each ended: kMissing for those that a
// stop kept from beginning.
std::vector<TaskRecord> RunLocalQueue(std::span<const Task> tasks, const LocalQueueOptions& options, StopRelay& relay);

// The exit code of an element of a job array, one task, as a status: Aborted (75) where a stop was requested,
// AlreadyExists (73) where another process works on it, Internal (79) where it failed.
absl::Status ElementStatus(const Task& task, const TaskRecord& record);

// The exit code of a study as a status: OK where every task is finished; Aborted (exit code 75) where a stop was
// requested or another process still works on some; else Internal with exit code 79 and one line that counts and names
// what failed.
absl::Status StudyStatus(std::span<const Task> tasks, std::span<const TaskRecord> records);

}  // namespace shardit
