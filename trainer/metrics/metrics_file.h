// metrics.jsonl of a run folder, and files like it: one row a logged step, never two for the same, across any number of
// resumes. Owned by rank 0; not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/metrics/metrics_row.h"

namespace shardit {

class MetricsFile {
 public:
  // Opens for appending after `resumed_step` completed steps (0: a fresh run). Rows above it and a torn end are
  // dropped, by an atomic replacement of the file. A damaged line before rows that must be kept is DataLoss.
  static absl::StatusOr<MetricsFile> Open(const std::string& path, int64_t resumed_step);
  ~MetricsFile();
  MetricsFile(MetricsFile&& other) noexcept;
  MetricsFile& operator=(MetricsFile&& other) noexcept;

  // Step of the last row, 0 if none.
  int64_t last_step() const { return last_step_; }

  // Appends one row; `row.step` must be above last_step(). The row reaches the kernel before the call returns.
  absl::Status Append(const MetricsRow& row);
  // The same for a row of another kind: `json` is an object in one line, with that step.
  absl::Status Append(int64_t step, const std::string& json);

  // fsync: to be called before a checkpoint commits.
  absl::Status Sync();

 private:
  MetricsFile(std::string path, int descriptor, int64_t last_step);
  std::string path_;
  int descriptor_ = -1;
  int64_t last_step_ = 0;
};

}  // namespace shardit
