// What has been issued and not yet run. Issued operations are tasks in a graph of dependencies: order within a stream,
// events, the legacy default stream and the edges of CUDA graphs are all the same thing here. Nothing runs until some
// host thread waits or asks (or the queue gets long); then that thread runs tasks, of whatever stream, in an order
// drawn from the seed among those whose dependencies are done. An order that the program forgot to ask for is thus
// taken the wrong way round for some seed.
//
// Thread-safe: several host threads may issue and run tasks at once. All calls hold the scheduler's lock, which the
// caller takes; it is given up while a task runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/settings.h"

namespace cuda_emulator {

struct Task;
using TaskPtr = std::shared_ptr<Task>;

// What a task does. It is kept in graphs and run many times.
struct Operation {
  const char* name = "";
  cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
  std::function<void()> run;            // null: nothing to do
  bool on_host = false;                 // runs without access to device memory
  std::function<void(TaskPtr)> arrive;  // instead of `run`: called with the lock, and the task is done when Finish is
  std::function<std::string()> waits_for;  // with `arrive`: for a report of a hang
};

struct Task {
  Operation operation;
  uint64_t number = 0;
  int stream = 0;  // where it was issued; for the order only
  int issuer = 0;  // number of the host thread
  int open_dependencies = 0;
  bool arrived = false;
  bool done = false;
  std::vector<TaskPtr> successors;
  std::chrono::steady_clock::time_point finished;
};

class Scheduler {
 public:
  using Lock = std::unique_lock<std::mutex>;

  static Scheduler& Instance();
  Lock Acquire() { return Lock(mutex_); }

  // Dependencies may be null or done.
  TaskPtr Add(Operation operation, const std::vector<TaskPtr>& dependencies, int stream);
  // After something was added: runs tasks where the queue is long, or in immediate mode.
  void RunIfLong(Lock& lock);
  // A task that has arrived is done.
  void Finish(const TaskPtr& task);

  // Runs tasks until the condition holds; waits where there is nothing to run. Fatal after a long wait for nothing.
  void RunUntil(Lock& lock, const std::function<bool()>& condition);
  // Runs up to `count` tasks that need not be waited for.
  void RunSome(Lock& lock, int count);
  // Everything that the calling host thread issued, and what else can be run.
  void RunAll(Lock& lock);
  // Wakes the threads in RunUntil: something other than a task has changed.
  void Notify() { changed_.notify_all(); }

 private:
  class Access;

  bool RunOne(Lock& lock, Access& access);
  TaskPtr TakeReady();
  [[noreturn]] void ReportHang() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, TaskPtr> pending_;  // not done, by number
  std::vector<TaskPtr> ready_;
  std::map<int, int> pending_of_issuer_;
  uint64_t next_number_ = 1;
  uint64_t progress_ = 0;
  int running_ = 0;  // host threads inside a task
  uint64_t seed_ = 0;
  Random random_{1};
  uint32_t preference_ = 0;  // changes now and then: which streams go first
};

}  // namespace cuda_emulator
