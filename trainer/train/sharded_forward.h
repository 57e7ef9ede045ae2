// ShardedForward: the EMA model's output on whatever layout the run trains: held-out loss and sample grids go through
// it. Where the EMA is cut over the data axis, units are gathered as forward comes to them.
#pragma once

#include <memory>

#include "core/tensor/rank_context.h"
#include "model/sampler.h"
#include "parallel/data/parameter_gatherer.h"
#include "parallel/pipeline/executor.h"
#include "parallel/tensor/tensor_parallel.h"
#include "trainer/train/step_comms.h"
#include "trainer/train/train_state.h"

namespace shardit {

class ShardedForward {
 public:
  // References outlive the object.
  ShardedForward(RankContext& context, TrainState& state, const StepComms& comms);
  ~ShardedForward();

  const DitConfig& config() const { return state_.ema_model().config(); }
  // Collective over the ranks that share a model (pipeline and tensor axes), which give the same input; with a sharded
  // EMA over the data axis too, whose ranks give inputs of their own, one pass each. The output [N, C', H, W] on every
  // rank.
  Tensor Run(const DitInput& input);
  // The same as the sampler calls it.
  SampledModel sampled_model();

 private:
  class Stage;

  RankContext& context_;
  TrainState& state_;
  const StepComms& comms_;
  const std::unique_ptr<TensorParallel> tensor_axis_;
  const std::unique_ptr<ParameterGatherer> gatherer_;  // null where the EMA is in place
  PipelineExecutor executor_;
};

}  // namespace shardit
