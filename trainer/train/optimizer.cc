#include "trainer/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "trainer/train/loss_sums.h"

namespace shardit {
namespace {

// Runs that lie one behind the other both in the flat range and in the shard, as one: with a single rank, everything.
std::vector<ShardMap::Run> MergeRuns(const ShardMap& map) {
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

}  // namespace

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

UpdateReport Optimizer::Step(RankContext& context, TrainState& state, Communicator& world, bool loss_finite) const {
  ExactSum squares;
  AddSquares(state.owned(), state.grads(), state.grads_placement(), state.sharding().coords.tp == 0, context.cpu(),
             squares);
  {
    const TimedSpan span(context.timeline(), SpanKind::kWait, "norm");
    AllReduceLimbs(world, squares).Wait();
  }
  UpdateReport report{.grad_norm = std::sqrt(squares.Round()), .learning_rate = LearningRate(state.step)};
  ++state.step;
  report.skipped = !std::isfinite(report.grad_norm) || !loss_finite;
  if (report.skipped) {
    ++state.skipped;
    return report;
  }
  AdamwEmaArgs args;
  args.lr = report.learning_rate;
  args.beta1 = optimizer_.beta1;
  args.beta2 = optimizer_.beta2;
  args.eps = optimizer_.epsilon;
  args.weight_decay = optimizer_.weight_decay;
  args.ema_decay = EmaDecay(state.updates);
  ++state.updates;
  args.bias_correction1 = 1.0 - std::pow(optimizer_.beta1, static_cast<double>(state.updates));
  args.bias_correction2 = 1.0 - std::pow(optimizer_.beta2, static_cast<double>(state.updates));
  // As torch.nn.utils.clip_grad_norm_, its 1e-6 included, so that clipped runs compare.
  if (optimizer_.clip_norm > 0.0) args.grad_scale = std::min(1.0, optimizer_.clip_norm / (report.grad_norm + 1e-6));
  Update(context, state, args);
  return report;
}

void Optimizer::Update(RankContext& context, TrainState& state, AdamwEmaArgs args) const {
  const auto at = [](const Tensor& range, Placement placement, const ShardMap::Run& run) {
    return range.data() + (placement == Placement::kFlat ? run.flat_begin : run.shard_begin);
  };
  for (const ShardMap::Run& run : MergeRuns(state.kept())) {
    args.param = at(state.weights(), state.weights_placement(), run);
    args.grad = at(state.grads(), state.grads_placement(), run);
    args.m = at(state.adam_m(), Placement::kShard, run);
    args.v = at(state.adam_v(), Placement::kShard, run);
    args.ema = at(state.ema(), Placement::kShard, run);
    args.count = run.count;
    cpu::AdamwEma(args, context.cpu());
  }
}

}  // namespace shardit
