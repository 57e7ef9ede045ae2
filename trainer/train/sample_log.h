// samples.jsonl of a run folder: which samples every step trained on, skipped steps included, as
// {"step": 7, "ids": [12, 3, ...]}, ids in the order of the sample stream whatever the layout. Across resumes no step
// is there twice and none is missing, so a reader can check that every epoch has every sample once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/loader.h"
#include "parallel/comm/communicator.h"
#include "trainer/metrics/metrics_file.h"

namespace shardit {

class SampleLog {
 public:
  // Collective over `comm`, which outlives the log. Rank 0 opens the file after `resumed_step` completed steps, as
  // MetricsFile does.
  static absl::StatusOr<SampleLog> Open(Communicator& comm, const std::string& path, int64_t resumed_step);

  // Collective, once a step. `speaks`: the batch is this rank's and no other rank's that speaks; over all ranks they
  // make up the step. The row is on disk before any rank returns.
  absl::Status Append(int64_t step, const Batch& batch, bool speaks);

 private:
  SampleLog(Communicator& comm, std::optional<MetricsFile> file) : comm_(&comm), file_(std::move(file)) {}
  absl::Status Write(int64_t step, const std::vector<std::string>& parts);

  Communicator* comm_;
  std::optional<MetricsFile> file_;  // rank 0
};

}  // namespace shardit
