#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/evaluate_golden.h"
#include "trainer/evaluate/bootstrap.h"
#include "trainer/evaluate/frechet.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::HasSubstr;

Gaussian Estimate(const OwnedRows& rows) {
  Moments moments(rows.dim);
  moments.Add(rows.values.data(), rows.count);
  return *moments.Estimate();
}

Gaussian Diagonal(const std::vector<double>& mean, const std::vector<double>& variances) {
  const size_t dim = mean.size();
  Gaussian gaussian{mean, std::vector<double>(dim * dim)};
  for (size_t i = 0; i < dim; ++i) gaussian.covariance[i * dim + i] = variances[i];
  return gaussian;
}

double Distance(const Gaussian& a, const Gaussian& b) {
  const auto distance = FrechetDistance(a, b);
  EXPECT_TRUE(distance.ok()) << distance.status();
  return distance.value_or(-1.0);
}

struct GoldenPair {
  const char* name;
  int64_t count_a, count_b, dim;
};

TEST(Frechet, IsThatOfScipy) {
  for (const GoldenPair& pair : {GoldenPair{"frechet.full", 300, 200, 24},
                                 {"frechet.few", 300, 10, 24},
                                 {"frechet.both_few", 12, 9, 24},
                                 {"frechet.one_dim", 50, 40, 1},
                                 {"frechet.wide", 400, 500, 96}}) {
    const Gaussian a = Estimate(GoldenFeatures(1, pair.count_a, pair.dim));
    const Gaussian b = Estimate(GoldenFeatures(2, pair.count_b, pair.dim));
    const double expected = GoldenNumbers(pair.name)[0];
    EXPECT_NEAR(Distance(a, b), expected, 1e-6) << pair.name;
    EXPECT_NEAR(Distance(b, a), expected, 1e-6) << pair.name << ", exchanged";
    if (pair.count_b > pair.dim) {
      EXPECT_NEAR(Distance(a, b), expected, 1e-11) << pair.name;
    }
  }
}

// Commuting covariances: the sum over dims of (mean difference)^2 + (difference of standard deviations)^2.
TEST(Frechet, OfDiagonalsIsTheClosedForm) {
  const Gaussian a = Diagonal({0.0, 1.0, -2.0}, {4.0, 9.0, 0.25});
  EXPECT_NEAR(Distance(a, Diagonal({1.0, 1.0, 2.0}, {1.0, 16.0, 0.25})), 1.0 + 16.0 + 1.0 + 1.0, 1e-13);
  // Variances of zero, in one and in both.
  EXPECT_NEAR(Distance(a, Diagonal({0.0, 1.0, -2.0}, {0.0, 9.0, 0.0})), 4.0 + 0.25, 1e-13);
  const Gaussian point = Diagonal({0.0, 3.0, 0.0}, {0.0, 0.0, 0.0});
  EXPECT_NEAR(Distance(point, a), 4.0 + 4.0 + 4.0 + 9.0 + 0.25, 1e-13);
  EXPECT_EQ(Distance(point, point), 0.0);
}

TEST(Frechet, OfADistributionToItselfIsZero) {
  for (const int64_t count : {8, 300}) {
    const Gaussian gaussian = Estimate(GoldenFeatures(1, count, 24));
    EXPECT_NEAR(Distance(gaussian, gaussian), 0.0, 1e-6);
    EXPECT_GE(Distance(gaussian, gaussian), 0.0);
  }
}

TEST(Frechet, ReferenceServesManyDistances) {
  const Gaussian a = Estimate(GoldenFeatures(1, 100, 6));
  const auto reference = FrechetReference::Create(a);
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_EQ(reference->dim(), 6);
  for (const uint32_t seed : {2u, 3u, 2u}) {
    const Gaussian b = Estimate(GoldenFeatures(seed, 50, 6));
    EXPECT_EQ(*reference->DistanceTo(b), Distance(a, b));
  }
}

TEST(Frechet, RefusesOtherDims) {
  const auto distance = FrechetDistance(Diagonal({0.0}, {1.0}), Diagonal({0.0, 0.0}, {1.0, 1.0}));
  EXPECT_EQ(ExitCodeOf(distance.status()), ExitCode::kBadData);
  EXPECT_THAT(distance.status().message(), HasSubstr("the reference has 1 dims, the samples 2"));
}

TEST(Frechet, RefusesWhatIsNotFinite) {
  const Gaussian good = Diagonal({0.0, 0.0}, {1.0, 1.0});
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Gaussian mean = good, covariance = good;
    mean.mean[1] = value;
    covariance.covariance[1] = covariance.covariance[2] = value;
    for (const Gaussian& bad : {mean, covariance}) {
      EXPECT_EQ(ExitCodeOf(FrechetDistance(good, bad).status()), ExitCode::kNumerics);
      EXPECT_EQ(ExitCodeOf(FrechetDistance(bad, good).status()), ExitCode::kNumerics);
    }
  }
  // Finite, but not their product; nor the square of a difference.
  const Gaussian huge = Diagonal({0.0, 0.0}, {1e200, 1e200});
  EXPECT_EQ(ExitCodeOf(FrechetDistance(huge, huge).status()), ExitCode::kNumerics);
  EXPECT_EQ(ExitCodeOf(FrechetDistance(good, Diagonal({1e200, 0.0}, {1.0, 1.0})).status()), ExitCode::kNumerics);
}

TEST(Bootstrap, ResamplesDrawEverySampleEquallyOften) {
  constexpr int64_t kSamples = 50, kReplicates = 2000;
  std::vector<int64_t> drawn(kSamples), squares(kSamples);
  for (int64_t replicate = 0; replicate < kReplicates; ++replicate) {
    const std::vector<uint32_t> counts = ResampleCounts(7, replicate, {0, kSamples});
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), kSamples);
    for (int64_t i = 0; i < kSamples; ++i) {
      drawn[i] += counts[i];
      squares[i] += int64_t{counts[i]} * counts[i];
    }
  }
  // A count is binomial with mean 1 and variance 1 - 1 / 50: five standard errors.
  for (int64_t i = 0; i < kSamples; ++i) {
    EXPECT_NEAR(static_cast<double>(drawn[i]) / kReplicates, 1.0, 5.0 / std::sqrt(kReplicates));
    EXPECT_NEAR(static_cast<double>(squares[i]) / kReplicates, 1.98, 5.0 * 3.5 / std::sqrt(kReplicates));
  }
}

TEST(Bootstrap, ResamplesDependOnSeedReplicateAndRange) {
  std::set<std::vector<uint32_t>> all;
  for (const uint64_t seed : {1, 2}) {
    for (const int64_t replicate : {0, 1}) {
      for (const Range range : {Range{0, 40}, Range{40, 80}}) all.insert(ResampleCounts(seed, replicate, range));
    }
  }
  EXPECT_EQ(all.size(), 8u);
  EXPECT_EQ(ResampleCounts(1, 0, {0, 40}), ResampleCounts(1, 0, {0, 40}));
  EXPECT_EQ(ResampleCounts(1, 0, {5, 6}), std::vector<uint32_t>{1});
}

TEST(Bootstrap, FrechetIsThatOfTheRepeatedSamples) {
  const OwnedRows rows = GoldenFeatures(2, 60, 7);
  const auto reference = FrechetReference::Create(Estimate(GoldenFeatures(1, 90, 7)));
  const auto distances = BootstrapFrechet(rows.view(), *reference, 11, {2, 5});
  ASSERT_TRUE(distances.ok()) << distances.status();
  ASSERT_EQ(distances->size(), 3u);
  for (int64_t replicate = 2; replicate < 5; ++replicate) {
    const std::vector<uint32_t> counts = ResampleCounts(11, replicate, {0, 60});
    OwnedRows resample{60, 7, {}};
    for (int64_t i = 0; i < 60; ++i) {
      for (uint32_t copy = 0; copy < counts[i]; ++copy) {
        resample.values.insert(resample.values.end(), rows.view().row(i), rows.view().row(i + 1));
      }
    }
    EXPECT_NEAR((*distances)[replicate - 2], *reference->DistanceTo(Estimate(resample)), 1e-11);
  }
  EXPECT_EQ(*BootstrapFrechet(rows.view(), *reference, 11, {3, 4}), std::vector<double>{(*distances)[1]});
}

TEST(Bootstrap, FractionsSpreadAsBinomials) {
  std::vector<uint8_t> indicators(400);
  for (size_t i = 0; i < indicators.size(); ++i) indicators[i] = i % 4 == 0;
  constexpr int64_t kReplicates = 2000;
  const std::vector<double> fractions = BootstrapFractions(indicators, 3, {0, kReplicates});
  ASSERT_EQ(fractions.size(), static_cast<size_t>(kReplicates));
  double sum = 0.0, squares = 0.0;
  for (const double fraction : fractions) {
    sum += fraction;
    squares += (fraction - 0.25) * (fraction - 0.25);
  }
  const double variance = 0.25 * 0.75 / 400.0;
  EXPECT_NEAR(sum / kReplicates, 0.25, 5.0 * std::sqrt(variance / kReplicates));
  EXPECT_NEAR(squares / kReplicates, variance, 5.0 * variance * std::sqrt(2.0 / kReplicates));
  EXPECT_EQ(BootstrapFractions(indicators, 3, {7, 8}), std::vector<double>{fractions[7]});
}

// The interval of a percentage of normal replicates, moved to the estimate.
TEST(Bootstrap, IntervalsHoldTheMiddleOfTheReplicates) {
  std::vector<double> replicates;
  for (int64_t i = 100; i >= 0; --i) replicates.push_back(static_cast<double>(i));  // mean 50
  const Interval interval = BootstrapInterval(60.0, replicates, 0.0, 1000.0);
  EXPECT_NEAR(interval.low, 12.5, 1e-12);
  EXPECT_NEAR(interval.high, 107.5, 1e-12);
  const Interval cut = BootstrapInterval(60.0, replicates, 20.0, 100.0);
  EXPECT_EQ(cut.low, 20.0);
  EXPECT_EQ(cut.high, 100.0);
  // Between two replicates, as numpy.quantile.
  EXPECT_NEAR(BootstrapInterval(0.5, {1.0, 0.0}, -1.0, 2.0).high, 0.975, 1e-12);
  EXPECT_EQ(BootstrapInterval(3.0, {5.0}, 0.0, 9.0).low, 3.0);
}

}  // namespace
}  // namespace shardit
