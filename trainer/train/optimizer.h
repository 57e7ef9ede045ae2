// Optimizer: AdamW (Loshchilov and Hutter, arXiv 1711.05101), gradient clipping by global norm, learning-rate schedule
// and the EMA of the weights, all in one fused pass over what a rank keeps of the state.
#pragma once

#include <cstdint>

#include "core/ops/adamw.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "trainer/run_config/options.h"
#include "trainer/train/train_state.h"

namespace shardit {

struct UpdateReport {
  double grad_norm = 0.0;  // before clipping; not finite when the gradient is not
  double learning_rate = 0.0;
  bool skipped = false;
};

class Optimizer {
 public:
  // `total_steps` is the length of the whole run: decaying schedules end there.
  Optimizer(const OptimizerOptions& optimizer, const EmaOptions& ema, int64_t total_steps)
      : optimizer_(optimizer), ema_(ema), total_steps_(total_steps) {}

  // Learning rate of step `step` (from 0).
  double LearningRate(int64_t step) const;
  // Decay of EMA update `update` (from 0).
  double EmaDecay(int64_t update) const;

  // Collective over `world`: one step from the summed gradients in state.grads(), on what this rank keeps. The norm is
  // that of all gradients of the model, exact up to one rounding and the same on every rank and data or pipeline
  // layout. A gradient that is not finite, or `loss_finite` false, changes nothing but the counters.
  UpdateReport Step(RankContext& context, TrainState& state, Communicator& world, bool loss_finite) const;

 private:
  // AdamW and EMA on what this rank keeps; `args` holds the scalars.
  void Update(RankContext& context, TrainState& state, AdamwEmaArgs args) const;

  const OptimizerOptions optimizer_;
  const EmaOptions ema_;
  const int64_t total_steps_;
};

}  // namespace shardit
