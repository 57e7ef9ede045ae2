// StopSignal: USR1, USR2, TERM and INT ask for a stop at the next step boundary. A handler only sets a flag: nothing is
// saved inside it. Signals belong to the process, so the flag does too; thread-ranks of one process share it, and so do
// nested objects: make one before the start-up, so that a signal during it is not lost.
//
// One rank that got a signal is enough: the flag rides in the step's all-reduce. Repeated signals change nothing
// (schedulers send TERM to a job and to each of its processes), but an INT that comes kInsistSeconds or more after
// another is a person who does not want to wait: it takes its default effect, the end of the process, nothing saved.
#pragma once

#include <string_view>

namespace shardit {

class StopSignal {
 public:
  static constexpr int kInsistSeconds = 1;

  // Installs the handlers and forgets earlier signals, if it is the only one; the last destructor puts the earlier
  // handlers back.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // True once one of the signals has arrived.
  bool requested() const;
  // The name of the first that arrived, "SIGTERM"; empty if none has.
  std::string_view name() const;
};

}  // namespace shardit
