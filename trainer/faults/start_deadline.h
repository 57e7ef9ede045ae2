// StartDeadline: while ranks start, no communication exists that could say who is missing. A timer on each rank, made
// before MPI starts, ends a start that takes too long with exit code 76 and names the ranks that did not arrive.
//
// Ranks that still wait at half the deadline put a token into a folder that all of them see; at the deadline whoever
// has no token never started, or hangs before main. A start in time writes nothing.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace shardit {

struct StartDeadlineOptions {
  double seconds = 300.0;
  // Where tokens go: a folder that exists and that all nodes share. Empty: the message names this rank alone.
  std::string folder;
};

class StartDeadline {
 public:
  // Does nothing in a process that no launcher started (no rank in its environment).
  explicit StartDeadline(const StartDeadlineOptions& options);
  // The start is over.
  ~StartDeadline();
  StartDeadline(const StartDeadline&) = delete;
  StartDeadline& operator=(const StartDeadline&) = delete;

 private:
  void Watch();
  bool WaitFor(double seconds);  // true: the start is over
  void WriteToken() const;
  std::string Missing() const;

  const StartDeadlineOptions options_;
  int rank_ = -1, size_ = 0;
  std::string tokens_;  // folder of this job's tokens
  std::mutex mutex_;
  std::condition_variable done_signal_;
  bool done_ = false;  // guarded by mutex_
  std::thread thread_;
};

// Seconds from SHARDIT_START_SECONDS, else `otherwise`.
double StartSeconds(double otherwise);

}  // namespace shardit
