#include "trainer/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "trainer/train/loss_sums.h"

namespace shardit {

std::vector<ShardMap::Run> MergedRuns(const ShardMap& map) {
  std::vector<ShardMap::Run> merged;
  for (const ShardMap::Run& run : map.runs()) {
    ShardMap::Run* last = merged.empty() ? nullptr : &merged.back();
    if (last != nullptr && last->flat_begin + last->count == run.flat_begin &&
        last->shard_begin + last->count == run.shard_begin) {
      last->count += run.count;
    } else if (run.count > 0) {
      merged.push_back(run);
    }
  }
  return merged;
}

double Optimizer::LearningRate(int64_t step) const {
  const double peak = optimizer_.learning_rate;
  if (step < optimizer_.warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(optimizer_.warmup_steps);
  }
  const int64_t decay_steps = std::max<int64_t>(total_steps_ - optimizer_.warmup_steps - 1, 1);
  const double progress =
      std::min(1.0, static_cast<double>(step - optimizer_.warmup_steps) / static_cast<double>(decay_steps));
  const double floor = optimizer_.final_fraction;
  switch (optimizer_.schedule) {
    case LearningRateSchedule::kConstant:
      return peak;
    case LearningRateSchedule::kCosine:
      return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    case LearningRateSchedule::kLinear:
      return peak * (floor + (1.0 - floor) * (1.0 - progress));
  }
  return peak;
}

double Optimizer::EmaDecay(int64_t update) const {
  if (!ema_.warmup) return ema_.decay;
  const double k = static_cast<double>(update);
  return std::min(ema_.decay, (1.0 + k) / (10.0 + k));
}

UpdateInputs Optimizer::Begin(const TrainState& state, double images, const LossLimit& loss_limit) const {
  const double updates = static_cast<double>(state.updates + 1);
  AdamwEmaArgs args;
  args.lr = LearningRate(state.step);
  args.beta1 = optimizer_.beta1;
  args.beta2 = optimizer_.beta2;
  args.eps = optimizer_.epsilon;
  args.weight_decay = optimizer_.weight_decay;
  args.ema_decay = EmaDecay(state.updates);
  args.bias_correction1 = 1.0 - std::pow(optimizer_.beta1, updates);
  args.bias_correction2 = 1.0 - std::pow(optimizer_.beta2, updates);
  return {.scalars = Narrowed(args), .clip_norm = optimizer_.clip_norm, .images = images, .loss_limit = loss_limit};
}

UpdateReport Optimizer::Step(RankContext& context, TrainState& state, Communicator& world, bool loss_finite) const {
  const UpdateInputs inputs = Begin(state);
  ExactSum squares;
  AddSquares(state.owned(), state.grads(), state.grads_placement(), state.sharding().coords.tp == 0, context.cpu(),
             squares);
  {
    const TimedSpan span(context.timeline(), SpanKind::kWait, "norm");
    AllReduceLimbs(world, squares).Wait();
  }
  const double loss = loss_finite ? 0.0 : std::numeric_limits<double>::quiet_NaN();
  const UpdateControl control = Decide(inputs, {.squares = squares.Round(), .loss = loss});
  if (control.skip == 0) Update(context, state, control.scalars);
  return End(control, state);
}

UpdateReport Optimizer::End(const UpdateControl& control, TrainState& state) const {
  const UpdateReport report{control.grad_norm, LearningRate(state.step), control.skip != 0};
  ++state.step;
  ++(report.skipped ? state.skipped : state.updates);
  return report;
}

void Optimizer::Update(RankContext& context, TrainState& state, const AdamwScalars& scalars) const {
  const auto at = [](const Tensor& range, Placement placement, const ShardMap::Run& run) {
    return range.data() + (placement == Placement::kFlat ? run.flat_begin : run.shard_begin);
  };
  for (const ShardMap::Run& run : MergedRuns(state.kept())) {
    AdamwEmaArgs args;
    args.param = at(state.weights(), state.weights_placement(), run);
    args.grad = at(state.grads(), state.grads_placement(), run);
    args.m = at(state.adam_m(), Placement::kShard, run);
    args.v = at(state.adam_v(), Placement::kShard, run);
    args.ema = at(state.ema(), Placement::kShard, run);
    args.count = run.count;
    cpu::AdamwEma(args, scalars, context.cpu());
  }
}

}  // namespace shardit
