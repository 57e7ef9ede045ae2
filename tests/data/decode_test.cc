#include "data/decode.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

namespace shardit {
namespace {

// Independent of the code under test: the definition of binary16, in double.
double HalfValue(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double sign = half >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

TEST(Decode, EveryHalfConvertsExactly) {
  std::vector<uint16_t> half(65536);
  std::iota(half.begin(), half.end(), 0);
  std::vector<float> out(half.size());
  HalfToFloat(half.data(), 65536, out.data());
  for (size_t i = 0; i < half.size(); ++i) {
    const double expected = HalfValue(half[i]);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(out[i])) << i;
    } else {
      EXPECT_EQ(out[i], expected) << i;
      EXPECT_EQ(std::signbit(out[i]), half[i] >= 0x8000) << i;
    }
  }
}

TEST(Decode, FlipMirrorsEachRow) {
  for (int64_t width = 1; width <= 37; ++width) {
    std::vector<float> values(static_cast<size_t>(3 * width));
    std::iota(values.begin(), values.end(), 0.0f);
    FlipWidth(values.data(), 3, width);
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t i = 0; i < width; ++i) {
        ASSERT_EQ(values[row * width + i], static_cast<float>(row * width + width - 1 - i)) << width;
      }
    }
  }
}

TEST(Decode, ScaleAndPosterior) {
  const std::vector<float> mean = {1, 2, 3}, deviation = {0.5f, 0, 2};
  std::vector<float> x = {2, 7, -1};
  Posterior(mean.data(), deviation.data(), 3, 4.0f, x.data());
  EXPECT_EQ(x, (std::vector<float>{8, 8, 4}));
  Scale(x.data(), 2, 0.5f);
  EXPECT_EQ(x, (std::vector<float>{4, 4, 4}));
}

}  // namespace
}  // namespace shardit
