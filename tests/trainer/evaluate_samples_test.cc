#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/evaluate_golden.h"
#include "trainer/evaluate/bootstrap.h"
#include "trainer/evaluate/inception_score.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/evaluate/precision_recall.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::HasSubstr;

std::vector<float> Logits(int64_t samples, int64_t classes) {
  std::vector<float> logits;
  for (int64_t i = 0; i < samples * classes; ++i) {
    logits.push_back(12.0f * GoldenUniform(3, static_cast<uint32_t>(i)));
  }
  return logits;
}

InceptionScore ScoreOf(const InceptionScoreOptions& options, const std::vector<float>& logits) {
  InceptionScoreSums sums(options);
  EXPECT_TRUE(sums.Add(0, logits.data(), options.samples).ok());
  const auto score = sums.Score();
  EXPECT_TRUE(score.ok()) << score.status();
  return score.value_or(InceptionScore());
}

// 23 samples make 4 splits of 5 or more: 6, 6, 6 and 5.
TEST(InceptionScore, IsItsDefinition) {
  for (const auto& [name, split_size] : {std::pair{"inception.one_split", 23}, {"inception.four_splits", 5}}) {
    const InceptionScore score = ScoreOf({.samples = 23, .classes = 7, .split_size = split_size}, Logits(23, 7));
    EXPECT_EQ(score.splits, split_size == 23 ? 1 : 4);
    EXPECT_NEAR(score.mean, GoldenNumbers(name)[0], 1e-12) << name;
    EXPECT_NEAR(score.standard_deviation, GoldenNumbers(name)[1], 1e-12) << name;
  }
}

TEST(InceptionScore, ReachesItsLimits) {
  const InceptionScoreOptions options{.samples = 8, .classes = 4};
  EXPECT_NEAR(ScoreOf(options, std::vector<float>(32, 2.5f)).mean, 1.0, 1e-14);  // knows nothing
  std::vector<float> sure(32);
  for (int64_t i = 0; i < 8; ++i) sure[i * 4 + i % 4] = 2000.0f;  // sure of every sample, all classes alike
  EXPECT_NEAR(ScoreOf(options, sure).mean, 4.0, 1e-12);
  for (int64_t i = 0; i < 32; ++i) sure[i] = i % 4 == 2 ? 0.0f : -2000.0f;  // and of one class only
  EXPECT_NEAR(ScoreOf(options, sure).mean, 1.0, 1e-14);
}

TEST(InceptionScore, AddsUpOverRanksAndCalls) {
  const InceptionScoreOptions options{.samples = 700, .classes = 5, .split_size = 200, .replicates = 4, .seed = 9};
  const std::vector<float> logits = Logits(700, 5);
  const InceptionScore whole = ScoreOf(options, logits);
  InceptionScoreSums ranks[2] = {InceptionScoreSums(options), InceptionScoreSums(options)};
  for (const int64_t chunk : {1, 6, 3, 0, 5, 2, 4}) {
    ASSERT_TRUE(ranks[chunk % 2].Add(chunk * 100, logits.data() + chunk * 500, 100).ok());
  }
  EXPECT_EQ(ranks[0].Score().status().code(), absl::StatusCode::kFailedPrecondition);
  for (size_t i = 0; i < ranks[0].sums().size(); ++i) ranks[0].sums()[i] += ranks[1].sums()[i];
  const auto merged = ranks[0].Score();
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_NEAR(merged->mean, whole.mean, 1e-12);
  EXPECT_NEAR(merged->standard_deviation, whole.standard_deviation, 1e-12);
  ASSERT_EQ(merged->replicates.size(), 4u);
  for (size_t r = 0; r < 4; ++r) EXPECT_NEAR(merged->replicates[r], whole.replicates[r], 1e-12);
}

TEST(InceptionScore, ReplicatesAreThoseOfTheRepeatedSamples) {
  const InceptionScoreOptions options{.samples = 60, .classes = 5, .split_size = 30, .replicates = 3, .seed = 2};
  const std::vector<float> logits = Logits(60, 5);
  const InceptionScore score = ScoreOf(options, logits);
  for (int64_t replicate = 0; replicate < 3; ++replicate) {
    std::vector<float> resample;
    for (const Range split : {Range{0, 30}, Range{30, 60}}) {
      const std::vector<uint32_t> counts = ResampleCounts(2, replicate, split);
      for (int64_t i = 0; i < 30; ++i) {
        const auto row = logits.begin() + (split.begin + i) * 5;
        for (uint32_t copy = 0; copy < counts[i]; ++copy) resample.insert(resample.end(), row, row + 5);
      }
    }
    const InceptionScore expected = ScoreOf({.samples = 60, .classes = 5, .split_size = 30}, resample);
    EXPECT_NEAR(score.replicates[replicate], expected.mean, 1e-12);
    EXPECT_NE(score.replicates[replicate], score.mean);
  }
}

TEST(InceptionScore, NamesTheSampleThatIsNotFinite) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits = Logits(300, 3);
    logits[270 * 3 + 1] = value;
    InceptionScoreSums sums({.samples = 400, .classes = 3});
    const absl::Status status = sums.Add(50, logits.data(), 300);
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kNumerics) << value;
    EXPECT_THAT(status.message(), HasSubstr("sample 320 "));
  }
}

std::vector<double> AllRadii(const OwnedRows& rows, int64_t neighbours = kManifoldNeighbours) {
  return SquaredRadii(rows.view(), {0, rows.count}, neighbours);
}

std::vector<double> Inside(const OwnedRows& queries, const OwnedRows& manifold, int64_t neighbours) {
  const std::vector<uint8_t> inside =
      OnManifold(queries.view(), {0, queries.count}, manifold.view(), AllRadii(manifold, neighbours));
  return {inside.begin(), inside.end()};
}

struct ManifoldCase {
  std::string name;
  OwnedRows reference, samples;
  int64_t neighbours;
};

// The grid's samples: every second point of a wider grid.
OwnedRows WideGrid() {
  OwnedRows rows = GoldenGrid(5, 50, 3);
  for (float& value : rows.values) value = 2.0f * value - 1.0f;
  return rows;
}

TEST(PrecisionRecall, IsThatOfBruteForce) {
  for (const ManifoldCase& c : {ManifoldCase{"grid", GoldenGrid(4, 60, 3), WideGrid(), 3},
                                {"real", GoldenFeatures(1, 70, 24), GoldenFeatures(2, 45, 24), 3},
                                {"five", GoldenFeatures(1, 70, 24), GoldenFeatures(2, 45, 24), 5}}) {
    const auto expect_radii = [&](const OwnedRows& rows, const std::string& name) {
      const std::vector<double> expected = GoldenNumbers(c.name + name), radii = AllRadii(rows, c.neighbours);
      ASSERT_EQ(radii.size(), expected.size());
      for (size_t i = 0; i < radii.size(); ++i) EXPECT_NEAR(radii[i], expected[i], 1e-12) << c.name << " " << i;
    };
    expect_radii(c.reference, ".reference_radii");
    expect_radii(c.samples, ".sample_radii");
    EXPECT_EQ(Inside(c.samples, c.reference, c.neighbours), GoldenNumbers(c.name + ".samples_inside")) << c.name;
    EXPECT_EQ(Inside(c.reference, c.samples, c.neighbours), GoldenNumbers(c.name + ".reference_inside")) << c.name;
  }
}

// Where dot products are of 2^44, squared distances from them are off by 2^-8; differences are exact still.
constexpr float kFar = 4194304.0f;

TEST(PrecisionRecall, IsTheSameFarFromTheOrigin) {
  OwnedRows rows = GoldenFeatures(3, 90, 4), queries = GoldenFeatures(2, 60, 4);
  for (OwnedRows* set : {&rows, &queries}) {
    for (int64_t i = 0; i < set->count; ++i) set->values[i * 4] = std::floor(4.0f * set->values[i * 4]) / 2.0f;
  }
  const std::vector<double> radii = AllRadii(rows), inside = Inside(queries, rows, 3);
  for (OwnedRows* set : {&rows, &queries}) {
    for (int64_t i = 0; i < set->count; ++i) set->values[i * 4] += kFar;
  }
  EXPECT_EQ(AllRadii(rows), radii);
  EXPECT_EQ(Inside(queries, rows, 3), inside);
}

// On a line at 0, 1, 2, 3, 4 the ball around 0 with three neighbours ends at 3.
TEST(PrecisionRecall, BallsHoldTheirSurface) {
  for (int i = 0; i < 32; ++i) {
    const float y = 0.1f + 0.01f * static_cast<float>(i);  // rounds the dot products in other ways
    const OwnedRows line{5, 2, {kFar, y, kFar + 1, y, kFar + 2, y, kFar + 3, y, kFar + 4, y}};
    EXPECT_EQ(AllRadii(line), (std::vector<double>{9, 4, 4, 4, 9}));
    const OwnedRows queries{4, 2, {kFar - 3, y, kFar - 3.5f, y, kFar + 7, y, kFar + 7.5f, y}};
    EXPECT_EQ(Inside(queries, line, 3), (std::vector<double>{1, 0, 1, 0})) << y;
  }
}

// Two equal vectors and a third that dot products of 8 dims cannot tell from them.
TEST(PrecisionRecall, NeighboursAreToldFromEqualVectors) {
  OwnedRows rows{5, 8, {}};
  for (const float x : {0.0f, 0.0f, 0.5f, 1.0f, 1.5f}) {
    rows.values.push_back(kFar + x);
    rows.values.insert(rows.values.end(), 7, 0.1f);
  }
  EXPECT_EQ(AllRadii(rows, 2), (std::vector<double>{0.25, 0.25, 0.25, 0.25, 1}));
}

TEST(PrecisionRecall, EqualVectorsAreNeighboursAtZero) {
  const OwnedRows points{6, 2, {1, 2, 1, 2, 1, 2, 1, 2, 5, 5, 9, 9}};
  EXPECT_EQ(AllRadii(points), (std::vector<double>{0, 0, 0, 0, 25, 113}));
  EXPECT_EQ(AllRadii(points, 4), (std::vector<double>{25, 25, 25, 25, 25, 113}));
  const OwnedRows collapsed{300, 4, std::vector<float>(1200, 0.1f)};
  EXPECT_EQ(AllRadii(collapsed), std::vector<double>(300, 0.0));
  EXPECT_EQ(Inside(collapsed, collapsed, 3), std::vector<double>(300, 1.0));
  OwnedRows moved = collapsed;
  for (float& value : moved.values) value = std::nextafter(value, 1.0f);
  EXPECT_EQ(Inside(moved, collapsed, 3), std::vector<double>(300, 0.0));
}

double Distance(const OwnedRows& a, int64_t i, const OwnedRows& b, int64_t j) {
  double sum = 0.0;
  for (int64_t c = 0; c < a.dim; ++c) {
    const double difference = static_cast<double>(a.view().row(i)[c]) - static_cast<double>(b.view().row(j)[c]);
    sum += difference * difference;
  }
  return sum;
}

// More rows than a block of either kind, on any number of ranks and threads; integers, of which every sum is exact.
TEST(PrecisionRecall, BlocksRanksAndThreadsDoNotShow) {
  const OwnedRows reference = GoldenGrid(1, 2300, 6), samples = GoldenGrid(2, 530, 6);
  std::vector<double> radii, inside;
  for (int64_t i = 0; i < reference.count; ++i) {
    std::vector<double> distances;
    for (int64_t j = 0; j < reference.count; ++j) {
      if (j != i) distances.push_back(Distance(reference, i, reference, j));
    }
    std::nth_element(distances.begin(), distances.begin() + 2, distances.end());
    radii.push_back(distances[2]);
  }
  // Every fifth ball of the first block of columns: most samples lie in one of these, some in later ones only, some in
  // none.
  const auto ball_of = [](int64_t row, double radius) { return row < 2048 && row % 5 != 0 ? -1.0 : radius; };
  for (int64_t j = 0; j < reference.count; ++j) radii[j] = ball_of(j, radii[j]);
  for (int64_t i = 0; i < samples.count; ++i) {
    bool any = false;
    for (int64_t j = 0; j < reference.count && !any; ++j) any = Distance(samples, i, reference, j) <= radii[j];
    inside.push_back(any ? 1.0 : 0.0);
  }
  for (const int ranks : {1, 2, 5}) {
    SetLinearAlgebraThreads(std::min(ranks, 2));
    std::vector<double> all_radii, all_inside;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      for (const double radius : SquaredRadii(reference.view(), PartRange(reference.count, ranks, rank))) {
        all_radii.push_back(ball_of(static_cast<int64_t>(all_radii.size()), radius));
      }
      const auto hits = OnManifold(samples.view(), PartRange(samples.count, ranks, rank), reference.view(), radii);
      all_inside.insert(all_inside.end(), hits.begin(), hits.end());
    }
    SetLinearAlgebraThreads(1);
    EXPECT_EQ(all_radii, radii);
    EXPECT_EQ(all_inside, inside);
  }
  EXPECT_NEAR(std::accumulate(inside.begin(), inside.end(), 0.0) / 530.0, 0.84, 0.01);
  EXPECT_TRUE(SquaredRadii(reference.view(), {4, 4}).empty());
}

TEST(PrecisionRecall, FractionCountsOnes) {
  EXPECT_EQ(Fraction(std::vector<uint8_t>{1, 0, 0, 1, 1}), 0.6);
  EXPECT_EQ(Fraction(std::vector<uint8_t>{0}), 0.0);
}

}  // namespace
}  // namespace shardit
