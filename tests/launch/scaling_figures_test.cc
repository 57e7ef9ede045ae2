#include "launch/scaling/scaling_figures.h"

#include <numeric>

#include "gtest/gtest.h"

namespace shardit {
namespace {

std::vector<TimedStep> Steps(const std::vector<double>& step_ms) {
  std::vector<TimedStep> steps;
  for (const double ms : step_ms) {
    const int64_t step = static_cast<int64_t>(steps.size()) + 1;
    steps.push_back({step, ms, ms / 10, 100, 20, step == 3 ? 5000 : 3, 1000 + step});
  }
  return steps;
}

TEST(ScalingFiguresTest, MedianOfEvenAndOdd) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(Median({7}), 7);
}

TEST(ScalingFiguresTest, LeavesTheWarmUpOut) {
  const auto figures = MeasurePoint(Steps({900, 800, 10, 30, 20, 40}), 2, 64);
  ASSERT_TRUE(figures.has_value());
  EXPECT_EQ(figures->timed_steps, 4);
  EXPECT_EQ(figures->step_ms, 25);
  EXPECT_EQ(figures->images_per_s, 64 / 25e-3);
  EXPECT_EQ(figures->exposed_comm_ms, 2.5);
  EXPECT_EQ(figures->bytes_dp, 100);
  EXPECT_EQ(figures->bytes_tp, 20);
  EXPECT_EQ(figures->bytes_pp, 3);  // not the one step with a checksum
  EXPECT_EQ(figures->peak_bytes, 1006);
  EXPECT_FALSE(figures->step_ms_interval.has_value());
  EXPECT_FALSE(MeasurePoint(Steps({900, 800}), 2, 64).has_value());
}

// Ranks from the table of the sign test (two-sided 5%): n 6 -> 1, 9 -> 2, 20 -> 6, 30 -> 10.
TEST(ScalingFiguresTest, IntervalOfTheMedianByOrderStatistics) {
  for (const auto& [n, rank] : {std::pair<int, int>{6, 1}, {8, 1}, {9, 2}, {20, 6}, {30, 10}}) {
    std::vector<double> ms(static_cast<size_t>(n));
    std::iota(ms.rbegin(), ms.rend(), 1.0);  // n, n - 1, ..., 1
    const auto figures = MeasurePoint(Steps(ms), 0, 1);
    ASSERT_TRUE(figures->step_ms_interval.has_value()) << n;
    EXPECT_EQ(figures->step_ms_interval->first, rank) << n;
    EXPECT_EQ(figures->step_ms_interval->second, n + 1 - rank) << n;
  }
  EXPECT_FALSE(MeasurePoint(Steps({1, 2, 3, 4, 5}), 0, 1)->step_ms_interval.has_value());
}

TEST(ScalingFiguresTest, EfficiencyIsOfTheSmallestWorld) {
  const Scaled scaled = ScaleAgainst(300, 4, 100, 1);
  EXPECT_EQ(scaled.speedup, 3);
  EXPECT_EQ(scaled.efficiency, 0.75);
  EXPECT_EQ(ScaleAgainst(50, 2, 50, 2).efficiency, 1);
}

}  // namespace
}  // namespace shardit
