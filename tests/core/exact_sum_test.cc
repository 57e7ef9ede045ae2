#include "core/base/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace shardit {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLargest = std::numeric_limits<double>::max();
constexpr double kSmallest = std::numeric_limits<double>::denorm_min();

ExactSum Sum(const std::vector<double>& values) {
  ExactSum sum;
  for (const double value : values) sum.Add(value);
  return sum;
}

uint64_t BitsOf(double value) { return std::bit_cast<uint64_t>(value); }

// Both signs, exponents over the whole range, so that terms cancel and round in every way.
std::vector<double> Wild(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> exponent(-1070, 960);
  std::uniform_real_distribution<double> mantissa(-1.0, 1.0);
  std::vector<double> values(count);
  for (double& value : values) value = std::ldexp(mantissa(random), exponent(random));
  return values;
}

TEST(ExactSum, OneValueComesBack) {
  for (const double value : {0.0, 1.0, -1.0, 0.1, -1e300, kSmallest, -kSmallest, 3 * kSmallest, kLargest, -kLargest,
                             std::numeric_limits<double>::min(), std::nextafter(0.25, 1.0)}) {
    EXPECT_EQ(BitsOf(Sum({value}).Round()), BitsOf(value)) << value;
  }
  for (const double value : Wild(2000, 1)) ASSERT_EQ(BitsOf(Sum({value}).Round()), BitsOf(value)) << value;
}

TEST(ExactSum, OrderAndGroupingDoNotMatter) {
  std::vector<double> values = Wild(3000, 2);
  const double want = Sum(values).Round();
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::shuffle(values.begin(), values.end(), random);
    std::vector<ExactSum> groups(1 + random() % 9);
    for (const double value : values) groups[random() % groups.size()].Add(value);
    ExactSum merged, as_integers;
    for (ExactSum& group : groups) {
      merged.Merge(group);
      const std::span<int64_t> to = as_integers.limbs(), from = group.limbs();
      for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
    }
    ASSERT_EQ(BitsOf(merged.Round()), BitsOf(want));
    ASSERT_EQ(BitsOf(as_integers.Round()), BitsOf(want));
  }
}

// Sums of multiples of 2^-60 below 2^40 are exact in 128-bit integers, and their conversion rounds to nearest, ties to
// even.
TEST(ExactSum, AgreesWithExactIntegers) {
  std::mt19937_64 random(4);
  for (int trial = 0; trial < 3000; ++trial) {
    __int128 want = 0;
    ExactSum sum;
    const int count = 1 + static_cast<int>(random() % 6);
    for (int i = 0; i < count; ++i) {
      const int64_t mantissa = static_cast<int64_t>(random() >> 11) - (int64_t{1} << 52);
      const int shift = static_cast<int>(random() % 44);
      want += static_cast<__int128>(mantissa) << shift;
      sum.Add(std::ldexp(static_cast<double>(mantissa), shift - 60));
    }
    ASSERT_EQ(sum.Round(), std::ldexp(static_cast<double>(want), -60)) << trial;
  }
}

TEST(ExactSum, TiesGoToEven) {
  const double ulp = std::ldexp(1.0, -52);
  EXPECT_EQ(Sum({1.0, ulp / 2}).Round(), 1.0);
  EXPECT_EQ(Sum({1.0 + ulp, ulp / 2}).Round(), 1.0 + 2 * ulp);
  EXPECT_EQ(Sum({1.0, ulp / 2, kSmallest}).Round(), 1.0 + ulp);
  EXPECT_EQ(Sum({1.0, ulp / 2, -kSmallest}).Round(), 1.0);
  EXPECT_EQ(Sum({-1.0 - ulp, -ulp / 2}).Round(), -1.0 - 2 * ulp);
  EXPECT_EQ(Sum({2.0 - ulp, ulp / 2}).Round(), 2.0);  // the mantissa overflows
}

TEST(ExactSum, HugeTermsCancel) {
  EXPECT_EQ(Sum({kLargest, kSmallest, -kLargest}).Round(), kSmallest);
  EXPECT_EQ(Sum({kLargest, kLargest, 7.5, -kLargest, -kLargest}).Round(), 7.5);
  EXPECT_EQ(Sum({1e300, 1.0, -1e300, -1.0}).Round(), 0.0);
  EXPECT_EQ(Sum({kLargest, kLargest}).Round(), kInfinity);
  EXPECT_EQ(Sum({-kLargest, -kLargest}).Round(), -kInfinity);
  EXPECT_TRUE(Sum({kLargest, kLargest}).finite());
  EXPECT_EQ(Sum(std::vector<double>(100000, kLargest)).Round(), kInfinity);
}

TEST(ExactSum, ManySumsOfEqualSign) {
  ExactSum sum;
  for (int doubling = 0; doubling < 60; ++doubling) {
    if (doubling == 0) sum.Add(-0.1);
    sum.Merge(ExactSum(sum));
  }
  EXPECT_EQ(sum.Round(), std::ldexp(-0.1, 60));
}

TEST(ExactSum, RemembersWhatIsNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(Sum({1.0, nan}).finite());
  EXPECT_TRUE(std::isnan(Sum({nan, 1.0}).Round()));
  EXPECT_EQ(Sum({kInfinity, -kLargest}).Round(), kInfinity);
  EXPECT_EQ(Sum({-kInfinity, kLargest}).Round(), -kInfinity);
  EXPECT_TRUE(std::isnan(Sum({kInfinity, -kInfinity}).Round()));
  ExactSum merged = Sum({1.0});
  merged.Merge(Sum({kInfinity}));
  EXPECT_FALSE(merged.finite());
}

}  // namespace
}  // namespace shardit
