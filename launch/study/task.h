// A task of a study: commands that run one after another, each skipped when its result is there, and what became of it.
// Nothing here knows what the commands do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/study/stop_relay.h"
#include "launch/study/task_record.h"

namespace shardit {

struct Stage {
  std::string name;               // "train", "evaluate step 1600"
  std::vector<std::string> argv;  // launch line and program included

  // Whether its result is there and is this stage's. An error where what is there belongs to something else, or cannot
  // be made: the task fails with it.
  std::function<absl::StatusOr<bool>()> done;

  // Grows as the stage gets on from attempt to attempt (the newest committed step). Empty: only its end is progress.
  std::function<int64_t()> progress;
};

struct Task {
  std::string name;    // of letters, digits and "._-": safe in paths, scripts and job lists
  int64_t index = 0;   // in the study, the same whenever it is described the same
  std::string folder;  // made if missing; holds task.json, task.log (the commands' output) and task.lock
  std::vector<Stage> stages;
};

struct TaskOptions {
  // Starts without progress that are let go before the task counts as failed.
  int64_t max_restarts = 3;
  // A scheduler runs the task again: a command that leaves with 75 ends the attempt instead of being started again.
  bool scheduled = false;
  std::vector<int> cpus;  // of the commands; empty: all
};

// Whether every stage's result is there. Runs nothing and writes nothing.
absl::StatusOr<bool> TaskIsDone(const Task& task);

// Runs the stages that are not done, on the calling thread, and keeps task.json up to date. By exit code of a command:
//
//   0               the next stage, if its result is there now; else as any other failure
//   75              again (see TaskOptions::scheduled); counts only where nothing was gained
//   64 65 77 78     failed: the same would come again
//   any other       again, up to max_restarts times without progress; then failed
//
// After a stop was requested nothing is started, and the task is kInterrupted. A task that another process works on
// (task.lock, or a training's lease) is left alone: kRunning. A task that had failed begins with a fresh count. The
// result is what task.json says, but for a task of another process; errors of the folder itself (it cannot be written)
// are kFailed too.
TaskRecord RunTask(const Task& task, const TaskOptions& options, StopRelay& relay);

}  // namespace shardit
