#include "launch/study/task.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// The same command would end the same way.
bool IsFinal(int exit_code) {
  constexpr std::array<ExitCode, 4> kFinal = {ExitCode::kUsage, ExitCode::kBadData, ExitCode::kNumerics,
                                              ExitCode::kDoNotRequeue};
  return std::any_of(kFinal.begin(), kFinal.end(), [&](ExitCode code) { return exit_code == static_cast<int>(code); });
}

// A training whose lease another job holds (trainer/faults/run_lease.h).
bool IsBusyElsewhere(const ChildResult& result) {
  return result.exit_code == static_cast<int>(ExitCode::kCannotCreate) &&
         absl::StrContains(result.last_error, "another job uses this run folder");
}

std::string Why(const ChildResult& result) {
  return absl::StrCat("exit ", result.exit_code, result.last_error.empty() ? "" : ": ", result.last_error);
}

class TaskRunner {
 public:
  TaskRunner(const Task& task, const TaskOptions& options, StopRelay& relay)
      : task_(task), options_(options), relay_(relay), record_(ReadTaskRecord(task.folder)) {
    // By hand, and after a failure, the count begins anew.
    if (!options.scheduled || record_.state == TaskState::kFailed) record_.stalled = 0;
  }

  TaskRecord Run() {
    for (const Stage& stage : task_.stages) {
      if (!RunStage(stage)) return record_;
    }
    // A task whose results were all there is left as it was found.
    if (record_.state != TaskState::kFinished) End(TaskState::kFinished, 0, "");
    return record_;
  }

 private:
  // True where the stage's result is there; else the record says what happened.
  bool RunStage(const Stage& stage) {
    last_.reset();
    for (;;) {
      const absl::StatusOr<bool> done = stage.done();
      if (!done.ok()) {
        return End(TaskState::kFailed, static_cast<int>(ExitCodeOf(done.status())),
                   std::string(done.status().message()));
      }
      if (*done) return true;
      if (last_.has_value() && last_->exit_code == 0) record_.message = "left with 0, but its result is not there";
      if (relay_.requested()) return End(TaskState::kInterrupted, record_.last_exit_code, "stopped");
      if (!MayStart(stage)) return false;
      if (!Attempt(stage)) return false;
    }
  }

  // Counts the start that follows, pessimistically: should this process die, the count is on disk.
  bool MayStart(const Stage& stage) {
    const int64_t progress = stage.progress ? stage.progress() : 0;
    if (record_.stage != stage.name || progress > record_.progress) record_.stalled = 0;
    if (record_.stalled > options_.max_restarts) {
      return End(TaskState::kFailed, record_.last_exit_code,
                 absl::StrCat("no progress in ", record_.stalled, " starts; ", record_.message));
    }
    record_.stage = stage.name;
    record_.progress = progress;
    ++record_.stalled;
    ++record_.attempts;
    record_.state = TaskState::kRunning;
    const absl::Status written = WriteTaskRecord(task_.folder, &record_);
    return written.ok() ||
           End(TaskState::kFailed, static_cast<int>(ExitCodeOf(written)), std::string(written.message()));
  }

  // True where the stage is to be looked at again.
  bool Attempt(const Stage& stage) {
    LOG_INFO("{}: {} begins", task_.name, stage.name);
    const absl::StatusOr<ChildResult> result =
        relay_.Run({.argv = stage.argv, .log = JoinPath(task_.folder, "task.log"), .cpus = options_.cpus});
    if (!result.ok()) {
      const bool stopped = absl::IsAborted(result.status());
      return End(stopped ? TaskState::kInterrupted : TaskState::kFailed, static_cast<int>(ExitCodeOf(result.status())),
                 std::string(result.status().message()));
    }
    last_ = *result;
    record_.last_exit_code = result->exit_code;
    record_.message = result->exit_code == 0 ? "" : Why(*result);
    LOG_INFO("{}: {} left with {}", task_.name, stage.name, result->exit_code);
    if (result->exit_code == 0) return true;
    if (IsFinal(result->exit_code)) return End(TaskState::kFailed, result->exit_code, record_.message);
    if (relay_.requested()) {
      --record_.stalled;  // the stop's doing, not the task's
      return End(TaskState::kInterrupted, result->exit_code, record_.message);
    }
    if (IsBusyElsewhere(*result)) {
      End(TaskState::kInterrupted, result->exit_code, record_.message);
      record_.state = TaskState::kRunning;
      return false;
    }
    const bool requeue = result->exit_code == static_cast<int>(ExitCode::kRequeue);
    if (requeue && options_.scheduled) return End(TaskState::kInterrupted, result->exit_code, record_.message);
    return true;
  }

  // Closes the record; false, for callers to pass on.
  bool End(TaskState state, int exit_code, const std::string& message) {
    record_.state = state;
    record_.last_exit_code = exit_code;
    record_.message = message;
    const absl::Status written = WriteTaskRecord(task_.folder, &record_);
    if (!written.ok()) LOG_WARN("{}: {}", task_.name, std::string(written.message()));
    return false;
  }

  const Task& task_;
  const TaskOptions& options_;
  StopRelay& relay_;
  TaskRecord record_;
  std::optional<ChildResult> last_;  // of the stage's last attempt by this process
};

}  // namespace

absl::StatusOr<bool> TaskIsDone(const Task& task) {
  for (const Stage& stage : task.stages) {
    ASSIGN_OR_RETURN(const bool done, stage.done());
    if (!done) return false;
  }
  return true;
}

TaskRecord RunTask(const Task& task, const TaskOptions& options, StopRelay& relay) {
  const absl::StatusOr<std::unique_ptr<TaskLock>> lock = TaskLock::Take(task.folder);
  if (lock.ok()) return TaskRunner(task, options, relay).Run();
  TaskRecord record = ReadTaskRecord(task.folder);
  record.state = absl::IsAlreadyExists(lock.status()) ? TaskState::kRunning : TaskState::kFailed;
  record.last_exit_code = static_cast<int>(ExitCodeOf(lock.status()));
  record.message = std::string(lock.status().message());
  return record;
}

}  // namespace shardit
