// The statistics of a study's points: laws fitted to them and correlations, each with its uncertainty and its n.
//
// All functions are pure and work in fp64. x and y are of one length (CHECK) and finite (CHECK). Where a quantity is
// not defined (too few points, a constant side) the result is absent, never a number that only looks like one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace shardit {

struct Interval {
  double low = 0;
  double high = 0;
};

// y = intercept + slope x by least squares.
struct LineFit {
  double intercept = 0;
  double slope = 0;
  // Standard errors from the residuals' variance with n - 2 degrees of freedom; absent where n < 3.
  std::optional<double> intercept_error, slope_error;
  double r_squared = 0;  // share of y's variance; 1 where y is constant (the fit is exact)
  int64_t n = 0;
};

// Absent where n < 2 or x is constant.
std::optional<LineFit> FitLine(std::span<const double> x, std::span<const double> y);

// y = factor x^exponent: the line through (ln x, ln y). Errors are of the exponent, and of ln(factor).
struct PowerLaw {
  double factor = 0;
  double exponent = 0;
  std::optional<double> log_factor_error, exponent_error;
  double r_squared = 0;  // of ln y
  int64_t n = 0;

  double At(double x) const;
};

// Absent where FitLine of the logs is, or where a value is not above 0.
std::optional<PowerLaw> FitPowerLaw(std::span<const double> x, std::span<const double> y);

struct Correlation {
  double r = 0;
  std::optional<Interval> interval;  // 95%
  int64_t n = 0;
};

// The product-moment correlation. Its interval is Fisher's, tanh(atanh(r) +- 1.96 / sqrt(n - 3)), which takes the
// points for draws of a bivariate normal distribution; absent where n < 4. Absent as a whole where n < 2 or a side is
// constant.
std::optional<Correlation> Pearson(std::span<const double> x, std::span<const double> y);

// Pearson's r of the ranks, equal values sharing their mean rank; without an interval.
std::optional<Correlation> Spearman(std::span<const double> x, std::span<const double> y);

// Natural logarithms, for correlations on log axes; values are above 0 (CHECK).
std::vector<double> Logs(std::span<const double> values);

}  // namespace shardit
