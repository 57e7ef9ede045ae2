// Layer norm in double, for the naive versions of every op that holds one.
#pragma once

#include <cmath>

#include "tests/core/op_case.h"

namespace shardit {

// (x - mean) / sqrt(var + eps) over the last dim of [N, T, D].
inline Array NaiveNorm(const Array& x, double eps) {
  Array out(x.shape);
  const int64_t width = x.dim(2);
  for (int64_t n = 0; n < x.dim(0); ++n) {
    for (int64_t t = 0; t < x.dim(1); ++t) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < width; ++i) mean += x(n, t, i) / static_cast<double>(width);
      for (int64_t i = 0; i < width; ++i) variance += std::pow(x(n, t, i) - mean, 2) / static_cast<double>(width);
      for (int64_t i = 0; i < width; ++i) out(n, t, i) = (x(n, t, i) - mean) / std::sqrt(variance + eps);
    }
  }
  return out;
}

// NaiveNorm(x) * (1 + scale[n]) + shift[n].
inline Array NaiveModulatedNorm(const Array& x, const Array& shift, const Array& scale, double eps) {
  Array out = NaiveNorm(x, eps);
  for (int64_t n = 0; n < x.dim(0); ++n) {
    for (int64_t t = 0; t < x.dim(1); ++t) {
      for (int64_t i = 0; i < x.dim(2); ++i) out(n, t, i) = out(n, t, i) * (1 + scale(n, i)) + shift(n, i);
    }
  }
  return out;
}

}  // namespace shardit
