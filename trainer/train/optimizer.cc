#include "trainer/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/ops/adamw.h"

namespace shardit {

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

UpdateReport Optimizer::Step(RankContext& context, TrainState& state, bool loss_finite) const {
  const SumOfSquaresResult squares = cpu::SumOfSquares(state.grads().data(), state.layout().size(), context.cpu());
  UpdateReport report{.grad_norm = std::sqrt(squares.sum), .learning_rate = LearningRate(state.step)};
  ++state.step;
  report.skipped = !squares.finite || !loss_finite;
  if (report.skipped) {
    ++state.skipped;
    return report;
  }
  AdamwEmaArgs args;
  args.param = state.weights().data();
  args.grad = state.grads().data();
  args.m = state.adam_m().data();
  args.v = state.adam_v().data();
  args.ema = state.ema().data();
  args.count = state.layout().size();
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
  cpu::AdamwEma(args, context.cpu());
  return report;
}

}  // namespace shardit
