// Where log lines go: standard error, with one status line (a progress bar) kept at the bottom on a terminal. Installed
// as a sink of the default logger by the program; a run finds it there. Thread-safe.
#pragma once

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

class StatusLineSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // `terminal`: keep a status line. `color`: mark warnings and errors. The stream outlives the sink.
  StatusLineSink(std::FILE* stream, bool terminal, bool color) : stream_(stream), terminal_(terminal), color_(color) {}

  // Replaces the status line; empty removes it. Without a terminal it does nothing.
  void SetStatus(const std::string& status);
  bool terminal() const { return terminal_; }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override;

 private:
  std::FILE* const stream_;
  const bool terminal_;
  const bool color_;
  std::string status_;
};

// Replaces the default logger: plain lines "[time] message" on standard error, a status line and colour where standard
// error is a terminal (no colour with NO_COLOR). mpirun hides the terminal behind a pipe: SHARDIT_PROGRESS=1 in the
// environment says that there is one. Ranks other than 0 log errors only.
void InstallLogger(int rank);

// The status line of the default logger, or null.
std::shared_ptr<StatusLineSink> FindStatusLine();

// Copies the default logger's lines to a file, by appending, until destruction. Open and destroy while no other thread
// logs.
class ScopedLogFile {
 public:
  static absl::StatusOr<std::unique_ptr<ScopedLogFile>> Open(const std::string& path);
  ~ScopedLogFile();

 private:
  explicit ScopedLogFile(std::FILE* file);
  std::FILE* file_;
  std::shared_ptr<spdlog::sinks::sink> sink_;
};

// "[#####-----] 50% 500/1000 loss 0.1234 12.3 steps/s ETA 0:01:02", cut to `columns`.
std::string ProgressBar(int64_t step, int64_t steps, double loss, double steps_per_s, double eta_s, int columns);

// Columns of the terminal behind standard error; else of the environment (COLUMNS); else 80.
int TerminalColumns();

}  // namespace shardit
