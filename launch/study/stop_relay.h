// StopRelay: signals that ask this process to stop reach the children it runs. USR1, USR2, TERM and INT are blocked in
// the thread that makes the relay and in all that it starts later, and a thread waits for them:
//
//   the first     USR1 to every child's group, now and as children start: trainings save and leave with 75. Not the
//                 signal itself, for mpirun passes USR1 on but ends its ranks at TERM
//   an INT after  a person who does not want to wait: TERM, and KILL five seconds later
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "launch/study/child_process.h"

namespace shardit {

class StopRelay {
 public:
  // One at a time in a process, made before other threads.
  StopRelay();
  ~StopRelay();
  StopRelay(const StopRelay&) = delete;
  StopRelay& operator=(const StopRelay&) = delete;

  // True once a signal has come.
  bool requested() const;

  // Runs the command to its end, any number at a time on threads of their own. Aborted (exit code 75), without starting
  // it, where a stop was requested before; else ChildProcess's errors.
  absl::StatusOr<ChildResult> Run(const ChildCommand& command);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shardit
