// What the steps of one point of a scaling study say, and what points of a series say together. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace shardit {

// One logged step of a run.
struct TimedStep {
  int64_t step = 0;  // from 1
  double step_ms = 0;
  double exposed_comm_ms = 0;
  int64_t bytes_dp = 0, bytes_tp = 0, bytes_pp = 0;  // sent by rank 0 in this step
  int64_t peak_bytes = 0;
};

struct PointFigures {
  double step_ms = 0;  // median over the timed steps
  // 95% interval of that median by order statistics (no distribution assumed); absent for fewer than 6 steps.
  std::optional<std::pair<double, double>> step_ms_interval;
  double images_per_s = 0;
  double exposed_comm_ms = 0;                        // median
  int64_t bytes_dp = 0, bytes_tp = 0, bytes_pp = 0;  // median: a checksum now and then sends more
  int64_t peak_bytes = 0;                            // greatest
  int64_t timed_steps = 0;
};

// Of the steps after `warmup`; absent where there are none.
std::optional<PointFigures> MeasurePoint(std::span<const TimedStep> steps, int64_t warmup, int64_t global_batch);

// Mean of the two middle values where their number is even. `values` is not empty (CHECK).
double Median(std::vector<double> values);

// Images a second over those of the smallest world, and that over the growth of the world: 1 is perfect, for series of
// either mode (a weak one's batch grows with the world).
struct Scaled {
  double speedup = 0;
  double efficiency = 0;
};
Scaled ScaleAgainst(double images_per_s, int64_t world, double smallest_images_per_s, int64_t smallest_world);

}  // namespace shardit
