// TrainStep: forward, backward, gradient reduction and optimizer update of one step on one rank.
//
// Per micro-batch: t, noise and label drop are drawn by (seed, global sample position), the model runs forward on a
// tape of its own, the loss gives the output's gradient, and backward adds to the flat gradients. Buckets are reduced
// over the data axis while the last micro-batch's backward still runs. Losses are means over the global batch, whatever
// the layout.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "core/tensor/rank_context.h"
#include "data/loader.h"
#include "model/diffusion.h"
#include "parallel/comm/communicator.h"
#include "parallel/data/grad_reducer.h"
#include "trainer/run_config/options.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/train_state.h"

namespace shardit {

struct StepOptions {
  uint64_t seed = 0;
  int64_t global_batch = 0;
  int64_t micro_batch = 0;
  RecomputeMode recompute = RecomputeMode::kNone;
  int64_t bucket_bytes = 0;
  bool check_finite = false;
};

struct StepReport {
  using Time = std::chrono::steady_clock::time_point;
  double loss = 0.0, mse = 0.0, vb = 0.0;  // means over the global batch; equal on all ranks
  std::string non_finite_node;  // with check_finite: the first operation of this rank whose gradient is not finite
  UpdateReport update;
  ReduceReport reduce;
  Time begin, forward_end, backward_end, end;  // forward_end: of the last micro-batch
};

class TrainStep {
 public:
  // `data_axis` carries gradients, `control` the losses (a communicator of its own over the same ranks, so
  // that its order is free of the buckets'). All references outlive the object.
  TrainStep(RankContext& context, TrainState& state, const Diffusion& diffusion, const Optimizer& optimizer,
            Communicator& data_axis, Communicator& control, const StepOptions& options);

  // Collective: runs step state.step on this rank's part of the batch and advances the state.
  StepReport Run(const Batch& batch);

 private:
  struct LossSums {
    double loss = 0.0, mse = 0.0, vb = 0.0;
  };
  // Forward and backward of samples [first, first + count) of the batch; adds this rank's share of the losses.
  void RunMicroBatch(const Batch& batch, int64_t first, int64_t count, LossSums& sums, StepReport& report);

  RankContext& context_;
  TrainState& state_;
  const Diffusion& diffusion_;
  const Optimizer& optimizer_;
  Communicator& control_;
  const StepOptions options_;
  GradReducer reducer_;
};

}  // namespace shardit
