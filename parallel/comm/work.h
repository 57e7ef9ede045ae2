// The handle of one asynchronous collective.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "parallel/comm/collective_log.h"

namespace shardit {

// Shared by the handle and the backend. The backend calls MarkStart once, then MarkDone once; what it wrote into the
// caller's buffers before MarkDone is visible to whoever saw done.
class WorkState {
 public:
  WorkState(CollectiveLog* log, int64_t log_number) : log_(log), log_number_(log_number) {}

  void MarkStart() {
    start_ = std::chrono::steady_clock::now();
    log_->Start(log_number_, start_);
  }
  void MarkDone() {
    end_ = std::chrono::steady_clock::now();
    log_->End(log_number_, end_);
    done_.store(1, std::memory_order_release);
    done_.notify_all();
  }

  // For a backend without a thread of its own, before the call returns: `progress` runs on the thread of whoever asks
  // whether the work is done, and marks it done when it is; with `wait`, always.
  void SetProgress(std::function<void(WorkState& work, bool wait)> progress) { progress_ = std::move(progress); }

 private:
  friend class Work;
  bool Done(bool wait) {
    if (done_.load(std::memory_order_acquire) != 0) return true;
    if (progress_) progress_(*this, wait);
    return done_.load(std::memory_order_acquire) != 0;
  }

  using Time = std::chrono::steady_clock::time_point;

  CollectiveLog* log_;
  int64_t log_number_;
  Time start_{}, end_{};
  std::atomic<int> done_{0};  // int, not bool: the size a futex can wait on
  std::function<void(WorkState& work, bool wait)> progress_;
};

// Movable and cheap to copy; a default-made Work is done. Dropping it does not cancel: the buffers given to the call
// must stay valid, and its inputs unchanged, until Done() is true. Any thread may wait.
class Work {
 public:
  using Time = std::chrono::steady_clock::time_point;

  Work() = default;
  explicit Work(std::shared_ptr<WorkState> state) : state_(std::move(state)) {}

  bool Done() const { return state_ == nullptr || state_->Done(/*wait=*/false); }

  // Blocks the calling thread, asleep after a short spin, until the collective is done on this rank. There is no time
  // limit: a hang is the watchdog's business.
  void Wait() const {
    if (state_ != nullptr && !state_->Done(/*wait=*/true)) state_->done_.wait(0, std::memory_order_acquire);
  }

  // When the backend began and finished it. Only after Done(); zero for a default-made Work.
  Time start() const { return state_ == nullptr ? Time{} : state_->start_; }
  Time end() const { return state_ == nullptr ? Time{} : state_->end_; }

 private:
  std::shared_ptr<WorkState> state_;
};

}  // namespace shardit
