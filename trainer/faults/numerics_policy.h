// NumericsPolicy: what to do when numbers go wrong. Steps with a loss or gradient that is not finite are skipped by the
// optimizer; ten in a row go back to the last checkpoint; if the run then fails again before it has got past the place
// where it first did, it stops with exit code 77. Optionally a step whose gradient norm is an outlier is skipped too.
//
// Pure: every rank feeds it the same numbers (sums over the world) and takes the same decisions.
#pragma once

#include <cstdint>
#include <limits>

#include "core/base/host_device.h"

namespace shardit {

enum class NumericsVerdict : uint8_t { kContinue, kRollBack, kStop };

// What a resumed run must know to go on as if it had not stopped: saved in checkpoints.
struct NumericsState {
  int64_t skipped_in_a_row = 0;
  // Mean and variance of the loss over accepted steps, exponentially weighted.
  int64_t observed = 0;
  double mean = 0.0, variance = 0.0;
};

// The losses that are spikes: those further than `spread` above the mean. As it stands, none is.
struct LossLimit {
  double mean = 0.0;
  double spread = std::numeric_limits<double>::infinity();
  SHARDIT_HOST_DEVICE bool IsExceededBy(double loss) const { return loss - mean > spread; }
};

class NumericsPolicy {
 public:
  static constexpr int64_t kInARow = 10;

  // spike_z: a step whose loss lies more than this many standard deviations above the mean is a spike; 0: none is.
  explicit NumericsPolicy(double spike_z, const NumericsState& state = {}) : spike_z_(spike_z), state_(state) {}

  // Before the update: whether the optimizer must skip this step as a spike. Needs kObserved accepted steps.
  bool IsSpike(double loss) const;
  // IsSpike for finite losses, known before the step: for a device that decides by itself.
  LossLimit Limit() const;

  // After every step. `step` is the number of the step just done, from 1; `skipped` by the optimizer, for whichever
  // reason. After kRollBack the caller loads the last checkpoint from before the failures and calls Restore; where
  // there is none it must stop.
  NumericsVerdict Observe(int64_t step, double loss, bool skipped);
  // The state of a checkpoint that was loaded, at the start or to go back.
  void Restore(const NumericsState& saved) { state_ = saved; }

  const NumericsState& state() const { return state_; }

 private:
  static constexpr int64_t kObserved = 100;
  static constexpr double kWeight = 0.02;  // of a new step in mean and variance: about the last 50 steps count
  void Learn(double loss);

  const double spike_z_;
  NumericsState state_;
  int64_t failed_step_ = 0;  // where the last roll-back was asked for; 0: none
};

}  // namespace shardit
