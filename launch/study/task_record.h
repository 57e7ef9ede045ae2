// TaskRecord: what is known of a task of a study, kept in `task.json` of its folder and replaced atomically, and the
// lock by which one process works on a task at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

enum class TaskState : uint8_t {
  kMissing,      // never begun
  kRunning,      // somebody works on it
  kInterrupted,  // begun, not done, nobody works on it: goes on when it is run again
  kFinished,
  kFailed,
};
std::string_view Name(TaskState state);  // "missing", "running", ...

struct TaskRecord {
  TaskState state = TaskState::kMissing;
  std::string stage;     // the last that was begun
  int64_t attempts = 0;  // starts of a child, over all stages and all time
  int64_t stalled = 0;   // starts in a row that brought the stage no further
  int64_t progress = 0;  // of the stage, when it was last started
  int last_exit_code = 0;
  std::string message;  // why it stopped or failed; empty where it did not
  std::string host;     // of the last attempt
  std::string begun;    // "2024-01-31T12:00:00Z", of the first attempt
  std::string changed;  // of this record
};

// The record of a task's folder; kMissing where there is none. One that is damaged counts as kInterrupted, with a
// message that says so. A record that says kRunning while nobody holds the task's lock is kInterrupted: its process
// died (where the file system's locks do not reach other hosts, a record of another host stays as it is).
TaskRecord ReadTaskRecord(const std::string& folder);

// Also stamps `changed`, `host` and, if empty, `begun`.
absl::Status WriteTaskRecord(const std::string& folder, TaskRecord* record);

// Whether another open file, of any process that locks reach, holds a kernel lock on the file: of `task.lock`, and of
// the `lease` of a training (trainer/faults/run_lease.h).
bool IsFileLocked(const std::string& path);

// A kernel lock on `task.lock` of the folder, freed however the holder ends. File systems without locks let every taker
// through: training has a lease of its own.
class TaskLock {
 public:
  // AlreadyExists (exit code 73) where another process holds it. Makes the folder.
  static absl::StatusOr<std::unique_ptr<TaskLock>> Take(const std::string& folder);
  ~TaskLock();
  TaskLock(const TaskLock&) = delete;
  TaskLock& operator=(const TaskLock&) = delete;

 private:
  explicit TaskLock(int descriptor) : descriptor_(descriptor) {}
  const int descriptor_;
};

}  // namespace shardit
