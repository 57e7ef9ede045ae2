// ChildProcess: one command in a process group of its own. Its standard input is empty and both its outputs are
// appended to a log file, from which the line that says why it failed is read. When this process dies without a word,
// the system sends the child TERM (it saves, if it trains).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shardit {

struct ChildCommand {
  std::vector<std::string> argv;  // the program, looked for in PATH, and its arguments
  std::string log;                // appended to; made if missing
  std::vector<int> cpus;          // logical processors it may run on; empty: as this process
};

struct ChildResult {
  int exit_code = 0;  // 128 + n where signal n ended it, as shells say it
  std::string
      last_error;  // one printable line: what "shardit: ..." said last, else the last line; empty where none was
};

class ChildProcess {
 public:
  // Unavailable (exit code 74) where the log cannot be written or the system starts no process; NotFound (exit code 64)
  // for a program that does not exist. The child dies with the thread that started it, which therefore waits for it.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const ChildCommand& command);
  // Kills what is left of the group and waits.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Until it ends; once.
  ChildResult Wait();
  // To the whole group, from any thread; nothing after Wait has returned.
  void Signal(int number);

 private:
  struct State;
  explicit ChildProcess(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The line of a log's end that says why a command failed: the last that begins with "shardit: ", else the last that is
// not empty; escaped and cut to be printed.
std::string LastErrorLine(const std::string& log_end);

}  // namespace shardit
