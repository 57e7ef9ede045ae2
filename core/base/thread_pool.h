// The one thread pool of a rank. Threads are pinned where the machine allows it, spin briefly between parallel regions
// (a wake-up costs more than a small kernel) and then sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"

namespace shardit {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller, which takes part in every region: ThreadPool(1) starts no thread.
  // `cpus`, when given, are the logical processors to pin to, one per thread (the caller itself is not pinned here).
  explicit ThreadPool(int threads, std::span<const int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(thread) once for every thread in [0, threads()) and returns when all are done; the caller runs thread 0.
  // Not reentrant, and to be called from one thread at a time. Writes before the call are visible to the body, and the
  // body's writes are visible after it.
  void RunOnAll(absl::FunctionRef<void(int thread)> body);

  // Calls body(begin, end, thread) over a static partition of [0, count): the same items go to the same thread every
  // time, so results that depend on the partition are reproducible for a given number of threads. Runs inline, as one
  // call on thread 0, when count <= grain.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end, int thread)> body);

 private:
  struct Impl;
  int threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardit
