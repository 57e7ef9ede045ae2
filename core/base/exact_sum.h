// ExactSum: a sum of doubles without rounding, so that the same numbers give the same bits in whatever order, grouping
// or distribution over threads and ranks they are added: partial sums of a gradient norm, for one.
//
// A superaccumulator (Kulisch and Miranker, "Computer arithmetic in theory and practice", 1981): a fixed-point number
// that covers every finite double, from the smallest subnormal, 2^-1074, up to sums of 2^44 times the largest double,
// in digits of 32 bits. A digit lies in an int64, so that about 2^30 additions need no carry and digits of several
// sums can be added as plain integers: an int64 all-reduce of limbs() is the sum over ranks.
//
// The digits themselves are core/base/exact_digits.h, which CUDA kernels use too: limbs that they filled can be written
// to limbs().
//
// A value type of one owner thread. Adding costs a few integer operations; meant for partial sums, not for elements.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/base/exact_digits.h"

namespace shardit {

class ExactSum {
 public:
  // Infinities and NaNs are counted, not summed.
  void Add(double value);
  // This becomes the sum of both.
  void Merge(const ExactSum& other);

  // The whole state, after carries: the limbs of at most 2^30 sums may be added up as integers and written back here.
  std::span<int64_t> limbs();

  // Every value added was finite.
  bool finite() const;
  // The double nearest to the exact sum, ties to even; an infinity where it is beyond the largest. With values that
  // were not finite, what IEEE addition would give: NaN, or the infinity that occurred alone.
  double Round() const;

 private:
  void Carry();

  std::array<int64_t, exact::kLimbs> limbs_{};
  int64_t uncarried_ = 0;  // additions since Carry: bounds the digits
};

}  // namespace shardit
