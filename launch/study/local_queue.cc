#include "launch/study/local_queue.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/cpu_share.h"

namespace shardit {
namespace {

constexpr size_t kNamedFailures = 3;  // in the line that sums up

}  // namespace

std::vector<TaskRecord> RunLocalQueue(std::span<const Task> tasks, const LocalQueueOptions& options, StopRelay& relay) {
  std::vector<TaskRecord> records(tasks.size());
  std::atomic<size_t> next{0};
  std::mutex ended;
  const int slots = static_cast<int>(std::min<int64_t>(options.parallel, static_cast<int64_t>(tasks.size())));
  const auto work = [&](int slot) {
    TaskOptions task_options{.max_restarts = options.max_restarts};
    // Trainings that know nothing of each other would all take the same processors.
    if (slots > 1) task_options.cpus = PartOfCpus(AllowedCpus(), slot, slots);
    while (!relay.requested()) {
      const size_t index = next++;
      if (index >= tasks.size()) return;
      records[index] = RunTask(tasks[index], task_options, relay);
      std::lock_guard<std::mutex> lock(ended);
      if (options.ended) options.ended(tasks[index], records[index]);
    }
  };
  std::vector<std::thread> threads;
  for (int slot = 0; slot < slots; ++slot) threads.emplace_back(work, slot);
  for (std::thread& thread : threads) thread.join();
  return records;
}

absl::Status ElementStatus(const Task& task, const TaskRecord& record) {
  const std::string what = absl::StrCat(task.name, ": ", std::string(Name(record.state)), ", ", record.message);
  switch (record.state) {
    case TaskState::kFinished:
      return absl::OkStatus();
    case TaskState::kRunning:
      return WithExitCode(absl::AlreadyExistsError(what), ExitCode::kCannotCreate);
    case TaskState::kFailed:
      return WithExitCode(absl::InternalError(what), ExitCode::kTasksFailed);
    default:
      return WithExitCode(absl::AbortedError(what), ExitCode::kRequeue);
  }
}

absl::Status StudyStatus(std::span<const Task> tasks, std::span<const TaskRecord> records) {
  int64_t open = 0;
  std::vector<std::string> failed;
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (records[i].state == TaskState::kFailed) {
      failed.push_back(absl::StrCat(tasks[i].name, " (", records[i].message, ")"));
    } else if (records[i].state != TaskState::kFinished) {
      ++open;
    }
  }
  if (open > 0) {
    return WithExitCode(absl::AbortedError(absl::StrCat(open, " of ", tasks.size(), " tasks are not done, ",
                                                        failed.size(), " failed; the same command goes on")),
                        ExitCode::kRequeue);
  }
  if (failed.empty()) return absl::OkStatus();
  const size_t count = failed.size();
  if (count > kNamedFailures) failed.resize(kNamedFailures);
  return WithExitCode(
      absl::InternalError(absl::StrCat(count, " of ", tasks.size(), " tasks failed: ", absl::StrJoin(failed, "; "),
                                       count > kNamedFailures ? "; ..." : "", "; the same command tries them again")),
      ExitCode::kTasksFailed);
}

}  // namespace shardit
