#include "data/epoch_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

namespace shardit {
namespace {

std::vector<int64_t> Permutation(uint64_t seed, uint64_t epoch, int64_t count) {
  const EpochOrder order(seed, epoch, count);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) result.push_back(order.At(i));
  return result;
}

TEST(EpochOrder, IsABijection) {
  std::vector<int64_t> counts = {997, 1000, 1024, 1025, 4095, 10007, 50000, 60000, 65536, 65537};
  for (int64_t count = 1; count <= 130; ++count) counts.push_back(count);
  for (const int64_t count : counts) {
    for (const uint64_t epoch : {0, 1, 7}) {
      std::vector<int64_t> seen = Permutation(count, epoch, count);
      std::sort(seen.begin(), seen.end());
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(seen[i], i) << "count " << count << " epoch " << epoch;
    }
  }
}

TEST(EpochOrder, DiffersBetweenEpochsAndSeeds) {
  const std::vector<int64_t> base = Permutation(1, 0, 1000);
  EXPECT_EQ(base, Permutation(1, 0, 1000));
  for (const auto& other : {Permutation(1, 1, 1000), Permutation(2, 0, 1000), Permutation(1, uint64_t{1} << 40, 1000),
                            Permutation(uint64_t{1} << 40, 0, 1000)}) {
    int64_t same = 0;
    for (size_t i = 0; i < base.size(); ++i) same += base[i] == other[i];
    EXPECT_LT(same, 12);  // one fixed point is expected; 12 has probability 1e-9
  }
}

// Resumed runs must see the order they started with: these numbers are frozen.
TEST(EpochOrder, OrderIsFrozen) {
  EXPECT_EQ(Permutation(0, 0, 8), (std::vector<int64_t>{1, 7, 0, 6, 2, 5, 3, 4}));
  const EpochOrder order(42, 3, 1'281'167);
  EXPECT_EQ(order.At(0), 795864);
  EXPECT_EQ(order.At(1'000'000), 618372);
}

// Every permutation of a small set is about equally likely over epochs.
TEST(EpochOrder, SmallSetsSeeEveryPermutationEqually) {
  for (const int64_t count : {2, 3, 4, 5}) {
    std::map<std::vector<int64_t>, int> times;
    int64_t kinds = 1;
    for (int64_t i = 2; i <= count; ++i) kinds *= i;
    const int64_t draws = 400 * kinds;
    for (int64_t epoch = 0; epoch < draws; ++epoch) ++times[Permutation(3, epoch, count)];
    ASSERT_EQ(static_cast<int64_t>(times.size()), kinds);
    double chi2 = 0;
    for (const auto& [permutation, seen] : times) chi2 += (seen - 400.0) * (seen - 400.0) / 400.0;
    const double freedom = static_cast<double>(kinds - 1);
    EXPECT_LT(chi2, freedom + 5 * std::sqrt(2 * freedom)) << "count " << count;
  }
}

// Where does place i go: uniform over 32 bins, for the first, a middle and the last place, over epochs.
TEST(EpochOrder, PlacesAreUniformOverEpochs) {
  constexpr int64_t kCount = 60000, kDraws = 32000, kBins = 32;
  for (const int64_t place : {int64_t{0}, int64_t{12345}, kCount - 1}) {
    std::vector<double> bins(kBins);
    for (int64_t epoch = 0; epoch < kDraws; ++epoch) ++bins[EpochOrder(5, epoch, kCount).At(place) * kBins / kCount];
    double chi2 = 0;
    for (const double seen : bins) chi2 += (seen - 1000) * (seen - 1000) / 1000;
    EXPECT_LT(chi2, 31 + 5 * std::sqrt(62.0)) << "place " << place;
  }
}

// Neighbours in the order are unrelated: pairs of consecutive samples fill an 8 x 8 grid evenly, and the mean step
// length is that of a random order, a third of the count.
TEST(EpochOrder, NeighboursAreUnrelated) {
  const int64_t count = 60000;
  const std::vector<int64_t> order = Permutation(9, 2, count);
  std::vector<double> grid(64);
  double distance = 0;
  for (int64_t i = 0; i + 1 < count; ++i) {
    ++grid[order[i] * 8 / count * 8 + order[i + 1] * 8 / count];
    distance += std::abs(static_cast<double>(order[i] - order[i + 1])) / static_cast<double>(count);
  }
  double chi2 = 0;
  const double expected = static_cast<double>(count - 1) / 64;
  for (const double seen : grid) chi2 += (seen - expected) * (seen - expected) / expected;
  EXPECT_LT(chi2, 63 + 5 * std::sqrt(126.0));
  EXPECT_NEAR(distance / static_cast<double>(count - 1), 1.0 / 3, 0.005);
}

TEST(EpochOrder, HugeCountsStayInRange) {
  for (const int64_t count : {int64_t{1} << 62, (int64_t{1} << 62) - 1, int64_t{1} << 32, (int64_t{1} << 32) + 1}) {
    const EpochOrder order(1, 1, count);
    std::vector<int64_t> seen;
    for (int64_t i = 0; i < 1000; ++i) seen.push_back(order.At(count - 1 - i));
    std::sort(seen.begin(), seen.end());
    EXPECT_GE(seen.front(), 0);
    EXPECT_LT(seen.back(), count);
    EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
  }
}

TEST(SampleStream, FollowsEpochsInAnyOrderOfCalls) {
  SampleStream stream(4, 10), jumping(4, 10);
  for (uint64_t position = 0; position < 50; ++position) {
    EXPECT_EQ(stream.SampleAt(position), EpochOrder(4, position / 10, 10).At(static_cast<int64_t>(position % 10)));
  }
  EXPECT_EQ(jumping.SampleAt(43), stream.SampleAt(43));
  EXPECT_EQ(jumping.SampleAt(7), stream.SampleAt(7));
}

}  // namespace
}  // namespace shardit
