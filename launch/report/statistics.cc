#include "launch/report/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/check.h"

namespace shardit {
namespace {

constexpr double kNormal975 = 1.959963984540054;  // the standard normal distribution's quantile at 0.975

// Sums about the means: of two passes, so that values with a large common part lose no digits.
struct CentredSums {
  double mean_x = 0, mean_y = 0;
  double xx = 0, xy = 0, yy = 0;
};

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

CentredSums Centre(std::span<const double> x, std::span<const double> y) {
  CentredSums sums{.mean_x = Mean(x), .mean_y = Mean(y)};
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - sums.mean_x, dy = y[i] - sums.mean_y;
    sums.xx += dx * dx;
    sums.xy += dx * dy;
    sums.yy += dy * dy;
  }
  return sums;
}

// Said of the values themselves: their centred sum may be a rounding error instead of 0.
bool IsConstant(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [&](double value) { return value == values.front(); });
}

void CheckPoints(std::span<const double> x, std::span<const double> y) {
  CHECK(x.size() == y.size()) << "[statistics] x has " << x.size() << " values, y has " << y.size();
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(std::isfinite(x[i]) && std::isfinite(y[i])) << "[statistics] point " << i << " is not finite";
  }
}

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> Ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double shared = 0.5 * static_cast<double>(begin + 1 + end);
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = shared;
    begin = end;
  }
  return ranks;
}

}  // namespace

std::optional<LineFit> FitLine(std::span<const double> x, std::span<const double> y) {
  CheckPoints(x, y);
  if (x.size() < 2 || IsConstant(x)) return std::nullopt;
  const CentredSums sums = Centre(x, y);
  const double n = static_cast<double>(x.size());
  LineFit fit{.n = static_cast<int64_t>(x.size())};
  fit.slope = sums.xy / sums.xx;
  fit.intercept = sums.mean_y - fit.slope * sums.mean_x;
  double residual = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = y[i] - sums.mean_y - fit.slope * (x[i] - sums.mean_x);
    residual += error * error;
  }
  fit.r_squared = IsConstant(y) ? 1.0 : 1.0 - residual / sums.yy;
  if (x.size() >= 3) {
    const double variance = residual / (n - 2);
    fit.slope_error = std::sqrt(variance / sums.xx);
    fit.intercept_error = std::sqrt(variance * (1 / n + sums.mean_x * sums.mean_x / sums.xx));
  }
  return fit;
}

double PowerLaw::At(double x) const { return factor * std::pow(x, exponent); }

std::optional<PowerLaw> FitPowerLaw(std::span<const double> x, std::span<const double> y) {
  CheckPoints(x, y);
  const auto above_zero = [](double value) { return value > 0; };
  if (!std::all_of(x.begin(), x.end(), above_zero) || !std::all_of(y.begin(), y.end(), above_zero)) return std::nullopt;
  const std::optional<LineFit> line = FitLine(Logs(x), Logs(y));
  if (!line.has_value()) return std::nullopt;
  return PowerLaw{.factor = std::exp(line->intercept),
                  .exponent = line->slope,
                  .log_factor_error = line->intercept_error,
                  .exponent_error = line->slope_error,
                  .r_squared = line->r_squared,
                  .n = line->n};
}

std::optional<Correlation> Pearson(std::span<const double> x, std::span<const double> y) {
  CheckPoints(x, y);
  if (x.size() < 2 || IsConstant(x) || IsConstant(y)) return std::nullopt;
  const CentredSums sums = Centre(x, y);
  Correlation correlation{.n = static_cast<int64_t>(x.size())};
  correlation.r = std::clamp(sums.xy / (std::sqrt(sums.xx) * std::sqrt(sums.yy)), -1.0, 1.0);
  if (x.size() >= 4) {
    const double z = std::atanh(correlation.r);  // infinite at +-1, where the interval has no width
    const double half = kNormal975 / std::sqrt(static_cast<double>(x.size()) - 3);
    correlation.interval = Interval{std::tanh(z - half), std::tanh(z + half)};
  }
  return correlation;
}

std::optional<Correlation> Spearman(std::span<const double> x, std::span<const double> y) {
  CheckPoints(x, y);
  std::optional<Correlation> correlation = Pearson(Ranks(x), Ranks(y));
  if (correlation.has_value()) correlation->interval.reset();
  return correlation;
}

std::vector<double> Logs(std::span<const double> values) {
  std::vector<double> logs;
  logs.reserve(values.size());
  for (const double value : values) {
    CHECK(value > 0) << "[statistics] the logarithm of " << value;
    logs.push_back(std::log(value));
  }
  return logs;
}

}  // namespace shardit
