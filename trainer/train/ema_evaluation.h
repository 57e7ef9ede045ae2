// EmaEvaluation: what a run looks at while it trains: the held-out loss of its EMA weights, and a grid of samples drawn
// from them. Works on every layout.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "data/dataset.h"
#include "data/formats/png.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/sharded_forward.h"

namespace shardit {

class EmaEvaluation {
 public:
  // References outlive the object.
  EmaEvaluation(RankContext& context, TrainState& state, const StepComms& comms, const Diffusion& diffusion,
                const RunOptions& options);

  // Collective: the mean loss on the first log.validation_samples of `held_out`, equal on all ranks.
  absl::StatusOr<double> HeldOutLoss(const Dataset& held_out);

  // Collective: samples of the first ten classes, log.sample_per_class each (but no more than a
  // PNG has room for), as a picture on rank 0; others get none.
  absl::StatusOr<std::optional<Image>> SampleGrid();

 private:
  RankContext& context_;
  TrainState& state_;
  const StepComms& comms_;
  const Diffusion& diffusion_;
  const RunOptions& options_;
  ShardedForward forward_;
  std::vector<int64_t> classes_;  // rows of the picture
  int64_t columns_ = 0;
};

}  // namespace shardit
