// Balanced contiguous partition, against all partitions.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "parallel/pipeline/partition.h"

namespace shardit {
namespace {

using Costs = std::vector<int64_t>;
using Sizes = std::vector<int>;

Sizes SizesOf(const std::vector<Range>& ranges) {
  Sizes sizes;
  int64_t next = 0;
  for (const Range& range : ranges) {
    EXPECT_EQ(range.begin, next);
    next = range.end;
    sizes.push_back(static_cast<int>(range.size()));
  }
  return sizes;
}

// Largest cost, cost of first and last, sum of squares, then the sizes themselves.
using Judgement = std::tuple<int64_t, int64_t, int64_t, Sizes>;
Judgement Judge(const Costs& costs, const Sizes& sizes) {
  int64_t largest = 0, squares = 0;
  Costs sums;
  auto unit = costs.begin();
  for (const int size : sizes) {
    sums.push_back(std::accumulate(unit, unit + size, int64_t{0}));
    unit += size;
    largest = std::max(largest, sums.back());
    squares += sums.back() * sums.back();
  }
  const int64_t ends = sums.size() == 1 ? sums[0] : sums.front() + sums.back();
  return {largest, ends, squares, sizes};
}

void ForEachPartition(int units, int parts, Sizes& sizes, absl::FunctionRef<void()> body) {
  if (parts == 1) {
    sizes.push_back(units);
    body();
    sizes.pop_back();
    return;
  }
  for (int first = 1; first <= units - (parts - 1); ++first) {
    sizes.push_back(first);
    ForEachPartition(units - first, parts - 1, sizes, body);
    sizes.pop_back();
  }
}

TEST(BalancedPartition, IsTheBestOfAll) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const int units = 1 + static_cast<int>(random() % 10);
    const int parts = 1 + static_cast<int>(random() % units);
    const int64_t most = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 4 : 1000;  // few values make many ties
    Costs costs(units);
    for (int64_t& cost : costs) cost = static_cast<int64_t>(random() % (most + 1));
    std::vector<Judgement> all;
    Sizes sizes;
    ForEachPartition(units, parts, sizes, [&] { all.push_back(Judge(costs, sizes)); });
    const Sizes found = SizesOf(BalancedPartition(costs, parts));
    ASSERT_EQ(Judge(costs, found), *std::min_element(all.begin(), all.end())) << testing::PrintToString(costs);
  }
}

TEST(BalancedPartition, EqualUnitsLeaveTheEndsLighter) {
  EXPECT_EQ(SizesOf(BalancedPartition(Costs(10, 1), 4)), (Sizes{2, 3, 3, 2}));
  EXPECT_EQ(SizesOf(BalancedPartition(Costs(12, 1), 4)), (Sizes{3, 3, 3, 3}));
  EXPECT_EQ(SizesOf(BalancedPartition(Costs(3, 1), 3)), (Sizes{1, 1, 1}));
}

TEST(BalancedPartition, FlopCountsOfAHugeModel) {
  Costs costs(130, int64_t{7} << 50);  // 28 of the 130 units would overflow the square of their sum
  costs.front() = costs.back() = 1 << 20;
  const std::vector<Range> ranges = BalancedPartition(costs, 64);
  ASSERT_EQ(ranges.size(), 64u);
  for (const Range& range : ranges) EXPECT_LE(range.size(), 3);
  EXPECT_EQ(ranges.front().size() + ranges.back().size() + 62 * 2, 130);
}

TEST(BalancedPartitionDeathTest, MoreRangesThanUnits) {
  EXPECT_DEATH(BalancedPartition(Costs(3, 1), 4), "3 units into 4 ranges");
}

}  // namespace
}  // namespace shardit
