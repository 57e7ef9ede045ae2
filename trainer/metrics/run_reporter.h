// Everything that rank 0 says about a run: metrics.jsonl, tensorboard/, log lines (log.txt too), the progress bar.
// Other ranks have none. Not thread-safe; times come from the caller's clock.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/metrics/event_file.h"
#include "trainer/metrics/metrics_file.h"
#include "trainer/metrics/metrics_row.h"
#include "trainer/metrics/status_line.h"

namespace shardit {

struct ReporterOptions {
  std::string run_folder;    // exists
  int64_t steps = 0;         // of the whole run
  int64_t resumed_step = 0;  // completed before this process
  bool tensorboard = true;
};

class RunReporter {
 public:
  static absl::StatusOr<std::unique_ptr<RunReporter>> Open(const ReporterOptions& options);
  ~RunReporter();  // removes the progress bar
  RunReporter(const RunReporter&) = delete;
  RunReporter& operator=(const RunReporter&) = delete;

  // After every step: moves the progress bar, at most ten times a second. `step` counts completed steps.
  void StepDone(int64_t step, double loss);

  // A logged step: one row, one log line, one set of scalars.
  absl::Status Log(const MetricsRow& row);

  // A grid of samples, a PNG file in memory, for TensorBoard.
  absl::Status AddImage(int64_t step, const std::string& tag, const std::string& png, int width, int height,
                        int channels);

  // Makes all rows durable: before a checkpoint commits.
  absl::Status Sync() { return metrics_.Sync(); }

 private:
  using Clock = std::chrono::steady_clock;
  RunReporter(const ReporterOptions& options, std::unique_ptr<ScopedLogFile> log, MetricsFile metrics,
              std::optional<EventFile> events);
  double StepsPerSecond(int64_t step) const;  // since this process began, without its first step

  const ReporterOptions options_;
  std::unique_ptr<ScopedLogFile> log_;
  MetricsFile metrics_;
  std::optional<EventFile> events_;
  std::shared_ptr<StatusLineSink> status_line_;
  Clock::time_point first_step_done_{}, bar_drawn_{}, last_log_{};
  int64_t first_step_ = 0;  // of this process; 0: none yet
  int64_t last_logged_step_ = 0;
};

}  // namespace shardit
