// StepTrace: a rank's timeline of its last steps as a Chrome-trace file (chrome://tracing, Perfetto): forward, backward
// and update on one row, the reduction of each gradient bucket on another, so that the overlap can be seen.
#pragma once

#include <deque>
#include <string>

#include "absl/status/status.h"
#include "core/base/file.h"
#include "trainer/train/train_step.h"

namespace shardit {

class StepTrace {
 public:
  static constexpr size_t kSteps = 16;

  explicit StepTrace(int rank) : rank_(rank) {}

  // Keeps the newest kSteps.
  void Add(int64_t step, const StepReport& report);
  // JSON object format; timestamps in microseconds of the steady clock, one process per rank.
  absl::Status Write(FileSystem& fs, const std::string& path) const;

 private:
  struct Entry {
    int64_t step = 0;
    StepReport report;
  };
  const int rank_;
  std::deque<Entry> steps_;
};

}  // namespace shardit
