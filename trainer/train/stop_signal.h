// StopSignal: USR1, USR2, TERM and INT ask for a stop at the next step boundary. A handler only sets a flag: nothing is
// saved inside it. Signals belong to the process, so the flag does too; thread-ranks of one process share it.
#pragma once

namespace shardit {

class StopSignal {
 public:
  // Installs the handlers; the destructor puts the earlier ones back.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // True once one of the signals has arrived.
  bool requested() const;
};

}  // namespace shardit
