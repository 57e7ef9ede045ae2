// A record of skipped steps with the samples they consumed, for finding bad data.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct SkippedStep {
  int64_t step = 0;  // from 1
  double loss = 0.0, grad_norm = 0.0;
  bool spike = false;  // finite, but an outlier
};

// Collective over `data_axis`, only after a step that all ranks skipped: gathers the sample ids of its ranks' batches,
// and with `path` not empty, which is one rank 0 of one data axis, appends a line to that file, such as
// {"step":7,"reason":"not finite","loss":null,"grad_norm":null,"sample_ids":[3,1]}. Gives the same line to `line`, for
// the log. The status is this rank's own.
absl::Status RecordSkippedStep(Communicator& data_axis, const SkippedStep& skipped, std::span<const int64_t> sample_ids,
                               const std::string& path, std::string* line);

}  // namespace shardit
