#include "launch/scaling/scaling_figures.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "core/base/check.h"

namespace shardit {
namespace {

// The number k such that the k-th smallest and k-th largest of n values, from 1, hold the median with 95%: the largest
// k with P(Binomial(n, 1/2) < k) <= 2.5%. 0 where there is none.
int64_t MedianIntervalRank(int64_t n) {
  // The normal approximation, where the exact terms would underflow.
  if (n > 1000) return static_cast<int64_t>(0.5 * static_cast<double>(n) - 0.98 * std::sqrt(static_cast<double>(n)));
  double term = std::pow(0.5, static_cast<double>(n)), below = 0;
  int64_t k = 0;
  for (; below + term <= 0.025; ++k) {
    below += term;
    term *= static_cast<double>(n - k) / static_cast<double>(k + 1);
  }
  return k;
}

template <class Value>
double MedianOf(std::span<const TimedStep> steps, Value TimedStep::*value) {
  std::vector<double> values;
  for (const TimedStep& step : steps) values.push_back(static_cast<double>(step.*value));
  return Median(std::move(values));
}

}  // namespace

double Median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

std::optional<PointFigures> MeasurePoint(std::span<const TimedStep> steps, int64_t warmup, int64_t global_batch) {
  std::vector<TimedStep> timed;
  std::copy_if(steps.begin(), steps.end(), std::back_inserter(timed),
               [&](const TimedStep& step) { return step.step > warmup; });
  if (timed.empty()) return std::nullopt;
  PointFigures figures;
  figures.timed_steps = static_cast<int64_t>(timed.size());
  figures.step_ms = MedianOf<double>(timed, &TimedStep::step_ms);
  figures.images_per_s = 1e3 * static_cast<double>(global_batch) / figures.step_ms;
  figures.exposed_comm_ms = MedianOf<double>(timed, &TimedStep::exposed_comm_ms);
  figures.bytes_dp = std::llround(MedianOf<int64_t>(timed, &TimedStep::bytes_dp));
  figures.bytes_tp = std::llround(MedianOf<int64_t>(timed, &TimedStep::bytes_tp));
  figures.bytes_pp = std::llround(MedianOf<int64_t>(timed, &TimedStep::bytes_pp));
  for (const TimedStep& step : timed) figures.peak_bytes = std::max(figures.peak_bytes, step.peak_bytes);

  std::sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.step_ms < b.step_ms; });
  if (const int64_t rank = MedianIntervalRank(figures.timed_steps); rank > 0) {
    const size_t low = static_cast<size_t>(rank - 1);
    figures.step_ms_interval = {timed[low].step_ms, timed[timed.size() - 1 - low].step_ms};
  }
  return figures;
}

Scaled ScaleAgainst(double images_per_s, int64_t world, double smallest_images_per_s, int64_t smallest_world) {
  const double speedup = images_per_s / smallest_images_per_s;
  return {speedup, speedup * static_cast<double>(smallest_world) / static_cast<double>(world)};
}

}  // namespace shardit
