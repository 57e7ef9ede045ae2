#include "trainer/faults/numerics_policy.h"

#include <algorithm>
#include <cmath>

namespace shardit {
namespace {

// Of the mean: a loss within a few percent of a very steady mean is no outlier.
constexpr double kSmallestDeviation = 0.02;

}  // namespace

LossLimit NumericsPolicy::Limit() const {
  if (spike_z_ <= 0.0 || state_.observed < kObserved) return {};
  const double deviation = std::max(std::sqrt(state_.variance), kSmallestDeviation * std::abs(state_.mean));
  return {state_.mean, spike_z_ * deviation};
}

bool NumericsPolicy::IsSpike(double loss) const { return std::isfinite(loss) && Limit().IsExceededBy(loss); }

// Exponentially weighted mean and variance (West, "Updating mean and variance estimates", CACM 1979); the weight of the
// first steps is 1 / count, so that they form a plain average.
void NumericsPolicy::Learn(double loss) {
  ++state_.observed;
  const double weight = std::max(kWeight, 1.0 / static_cast<double>(state_.observed));
  const double difference = loss - state_.mean;
  state_.mean += weight * difference;
  state_.variance = (1.0 - weight) * (state_.variance + weight * difference * difference);
}

NumericsVerdict NumericsPolicy::Observe(int64_t step, double loss, bool skipped) {
  if (!skipped && std::isfinite(loss)) {
    state_.skipped_in_a_row = 0;
    Learn(loss);
    return NumericsVerdict::kContinue;
  }
  if (++state_.skipped_in_a_row < kInARow) return NumericsVerdict::kContinue;
  // A second time at or before the same place: the replay met the same numbers.
  if (failed_step_ > 0 && step <= failed_step_) return NumericsVerdict::kStop;
  failed_step_ = step;
  return NumericsVerdict::kRollBack;
}

}  // namespace shardit
