// The handle of one asynchronous collective.
//
// On the host a collective is done when its buffers may be used, and waiting blocks the calling thread. On a GPU it is
// queued on a communication stream behind what the compute stream had been given, and to wait is to let the compute
// stream wait: the host goes on at once. Done() is then true from Wait() on, whatever the device has reached, and false
// before, so that what a rank issues never depends on how far its device is, and a whole step can be captured in a
// graph. The same code is so right on both: issue, compute, Wait, use.
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
  // In place of MarkDone, for a backend on a device: the compute stream waits for the collective. The backend ends the
  // record in the log when it learns that the device is past it.
  void MarkOrdered() { done_.store(1, std::memory_order_release); }

  // For a backend without a thread of its own, before the call returns: `progress` runs on the thread of whoever asks
  // whether the work is done, and marks it done when it is; with `wait`, always.
  void SetProgress(std::function<void(WorkState& work, bool wait)> progress) { progress_ = std::move(progress); }
  // For a backend on a device, before the call returns: `wait` returns when the device is past the collective.
  // `stream_ordered` where Work::Wait never blocks the host.
  void SetDeviceWait(std::function<void()> wait, bool stream_ordered) {
    device_wait_ = std::move(wait);
    stream_ordered_ = stream_ordered;
  }

  int64_t log_number() const { return log_number_; }

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
  std::function<void()> device_wait_;
  bool stream_ordered_ = false;
};

// Movable and cheap to copy; a default-made Work is done. Dropping it does not cancel: the buffers given to the call
// must stay valid, and its inputs unchanged, until Done() is true. Any thread may wait; on a GPU, the one that issues
// the rank's work.
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

  // Wait, and block the calling thread until the device is past it, so that the host may read what it left. The same as
  // Wait for a collective on the host. Not inside a capture.
  void WaitOnHost() const {
    Wait();
    if (state_ != nullptr && state_->device_wait_) state_->device_wait_();
  }

  // True where Wait only orders streams: the host's time in it says nothing of communication.
  bool stream_ordered() const { return state_ != nullptr && state_->stream_ordered_; }
  // True where start() and end() are known: not for a default-made Work nor, as the host does not see when its kernels
  // run, for a collective of a stream.
  bool timed() const { return end() != Time{}; }

  // When the backend began and finished it. Only after Done(); zero where they are not known.
  Time start() const { return state_ == nullptr ? Time{} : state_->start_; }
  Time end() const { return state_ == nullptr ? Time{} : state_->end_; }

 private:
  std::shared_ptr<WorkState> state_;
};

}  // namespace shardit
