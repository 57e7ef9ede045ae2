// Optimizer: AdamW (Loshchilov and Hutter, arXiv 1711.05101), gradient clipping by global norm, learning-rate schedule
// and the EMA of the weights, all in one fused pass over what a rank keeps of the state.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "trainer/run_config/options.h"
#include "trainer/train/train_state.h"
#include "trainer/train/update_control.h"

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

  // On the CPU, collective over `world`: one step from the summed gradients in state.grads(), on what this rank keeps.
  // The norm is that of all gradients of the model, exact up to one rounding and the same on every rank and data or
  // pipeline layout. A gradient that is not finite, or `loss_finite` false, changes nothing but the counters.
  UpdateReport Step(RankContext& context, TrainState& state, Communicator& world, bool loss_finite) const;

  // The ends of a step, which the host alone takes part in; between them lies the work, on the CPU in Step, on a GPU in
  // DeviceUpdate. Begin gives what the update of step state.step needs to know; `images` is the global batch, over
  // which losses are means. End advances the counters.
  UpdateInputs Begin(const TrainState& state, double images = 1.0, const LossLimit& loss_limit = {}) const;
  UpdateReport End(const UpdateControl& control, TrainState& state) const;

 private:
  // AdamW and EMA on what this rank keeps.
  void Update(RankContext& context, TrainState& state, const AdamwScalars& scalars) const;

  const OptimizerOptions optimizer_;
  const EmaOptions ema_;
  const int64_t total_steps_;
};

// Runs that lie one behind the other both in the flat range and in the shard, as one: with a single rank, everything.
std::vector<ShardMap::Run> MergedRuns(const ShardMap& map);

}  // namespace shardit
