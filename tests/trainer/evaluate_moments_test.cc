#include <cblas.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/base/math.h"
#include "gtest/gtest.h"
#include "tests/trainer/evaluate_golden.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/evaluate/moments.h"

namespace shardit {
namespace {

void ExpectNear(const std::vector<double>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], tolerance) << "element " << i;
}

Moments MomentsOf(const OwnedRows& rows) {
  Moments moments(rows.dim);
  moments.Add(rows.values.data(), rows.count);
  return moments;
}

TEST(Moments, AreThoseOfNumpy) {
  const Moments moments = MomentsOf(GoldenFeatures(1, 300, 24));
  EXPECT_EQ(moments.count(), 300);
  const auto gaussian = moments.Estimate();
  ASSERT_TRUE(gaussian.ok()) << gaussian.status();
  ExpectNear(gaussian->mean, GoldenNumbers("moments.mean"), 1e-13);
  ExpectNear(gaussian->covariance, GoldenNumbers("moments.covariance"), 1e-13);
}

// 1400 rows: more than the blocks in which they are added.
TEST(Moments, DoNotDependOnHowRowsAreSplit) {
  const OwnedRows rows = GoldenFeatures(2, 1400, 9);
  const auto whole = MomentsOf(rows).Estimate();
  for (const int64_t parts : {2, 3, 7, 1400}) {
    Moments merged(rows.dim);
    for (int64_t part = 0; part < parts; ++part) {
      const Range range = PartRange(rows.count, parts, part);
      Moments mine(rows.dim);
      mine.Add(rows.view().row(range.begin), range.size());
      merged.Merge(mine);
    }
    EXPECT_EQ(merged.count(), rows.count);
    const auto gaussian = merged.Estimate();
    ExpectNear(gaussian->mean, whole->mean, 1e-12);
    ExpectNear(gaussian->covariance, whole->covariance, 1e-12);
  }
}

TEST(Moments, MergeWithNone) {
  const Moments some = MomentsOf(GoldenFeatures(2, 20, 3));
  Moments merged(3);
  merged.Merge(Moments(3));
  merged.Merge(some);
  merged.Merge(Moments(3));
  EXPECT_EQ(merged.count(), 20);
  EXPECT_EQ(merged.Serialize(), some.Serialize());
}

TEST(Moments, DoNotCancelFarFromTheOrigin) {
  OwnedRows rows = GoldenFeatures(1, 300, 24);
  const auto near_origin = MomentsOf(rows).Estimate();
  // 2^7 leaves the 16 fractional bits of the inputs exact, and costs E[x^2] - E[x]^2 four digits.
  for (float& value : rows.values) value += 128.0f;
  const auto far = MomentsOf(rows).Estimate();
  ExpectNear(far->covariance, near_origin->covariance, 1e-13);
}

TEST(Moments, WeightsAreRepetitions) {
  const OwnedRows rows = GoldenFeatures(3, 1100, 5);
  std::vector<uint32_t> weights;
  OwnedRows repeated{0, 5, {}};
  for (int64_t i = 0; i < rows.count; ++i) {
    weights.push_back(static_cast<uint32_t>(i * 7 % 5));
    for (uint32_t copy = 0; copy < weights.back(); ++copy) {
      repeated.values.insert(repeated.values.end(), rows.view().row(i), rows.view().row(i + 1));
      ++repeated.count;
    }
  }
  Moments weighted(rows.dim);
  weighted.AddWeighted(rows.values.data(), weights.data(), rows.count);
  EXPECT_EQ(weighted.count(), repeated.count);
  const auto expected = MomentsOf(repeated).Estimate();
  ExpectNear(weighted.Estimate()->mean, expected->mean, 1e-13);
  ExpectNear(weighted.Estimate()->covariance, expected->covariance, 1e-12);

  Moments none(rows.dim);
  const std::vector<uint32_t> zeros(weights.size());
  none.AddWeighted(rows.values.data(), zeros.data(), rows.count);
  EXPECT_EQ(none.count(), 0);
}

TEST(Moments, NeedTwoRows) {
  Moments moments(2);
  const float row[2] = {1.0f, -3.0f};
  EXPECT_EQ(moments.Estimate().status().code(), absl::StatusCode::kInvalidArgument);
  moments.Add(row, 1);
  EXPECT_EQ(moments.Estimate().status().code(), absl::StatusCode::kInvalidArgument);
  moments.Add(row, 1);
  ASSERT_TRUE(moments.Estimate().ok());
  EXPECT_EQ(moments.Estimate()->mean, (std::vector<double>{1.0, -3.0}));
  EXPECT_EQ(moments.Estimate()->covariance, std::vector<double>(4, 0.0));
}

TEST(Moments, CarryWhatIsNotFinite) {
  OwnedRows rows = GoldenFeatures(1, 10, 3);
  rows.values[4] = std::numeric_limits<float>::quiet_NaN();
  const auto gaussian = MomentsOf(rows).Estimate();
  EXPECT_TRUE(std::isnan(gaussian->mean[1]));
  EXPECT_TRUE(std::isnan(gaussian->covariance[4]));
}

TEST(Moments, TravelAsBytes) {
  const Moments moments = MomentsOf(GoldenFeatures(4, 30, 6));
  const std::string bytes = moments.Serialize();
  EXPECT_EQ(bytes.size(), 8u * (2 + 6 + 21));
  const auto parsed = Moments::Parse(bytes, 6);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->count(), 30);
  EXPECT_EQ(parsed->mean(), moments.mean());
  EXPECT_EQ(parsed->Estimate()->covariance, moments.Estimate()->covariance);
}

TEST(Moments, RefuseOtherBytes) {
  const std::string bytes = MomentsOf(GoldenFeatures(4, 30, 6)).Serialize();
  EXPECT_FALSE(Moments::Parse(bytes, 5).ok());
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(Moments::Parse(bytes.substr(0, size), 6).ok());
  EXPECT_FALSE(Moments::Parse(bytes + '\0', 6).ok());
  std::string other_dim = bytes;
  other_dim[0] = 5;
  EXPECT_FALSE(Moments::Parse(other_dim, 6).ok());
  std::string negative = bytes;
  negative[15] = '\xff';  // the sign of the count
  EXPECT_FALSE(Moments::Parse(negative, 6).ok());
}

TEST(LinearAlgebra, ThreadsChangeRoundingOnly) {
  const OwnedRows rows = GoldenFeatures(2, 600, 200);
  SetLinearAlgebraThreads(1);
  EXPECT_EQ(openblas_get_num_threads(), 1);
  const auto one = MomentsOf(rows).Estimate();
  SetLinearAlgebraThreads(2);
  EXPECT_EQ(openblas_get_num_threads(), 2);
  const auto two = MomentsOf(rows).Estimate();
  SetLinearAlgebraThreads(1);
  ExpectNear(two->covariance, one->covariance, 1e-13);
}

TEST(LinearAlgebra, EigenSystemsRebuildTheMatrix) {
  const auto gaussian = MomentsOf(GoldenFeatures(1, 300, 24)).Estimate();
  const auto eigen = SymmetricEigen(gaussian->covariance, 24);
  ASSERT_TRUE(eigen.ok()) << eigen.status();
  EXPECT_TRUE(std::is_sorted(eigen->values.begin(), eigen->values.end()));
  std::vector<double> rebuilt(24 * 24);
  for (int64_t k = 0; k < 24; ++k) {
    for (int64_t i = 0; i < 24; ++i) {
      for (int64_t j = 0; j < 24; ++j) {
        rebuilt[i * 24 + j] += eigen->values[k] * eigen->vectors[k * 24 + i] * eigen->vectors[k * 24 + j];
      }
    }
  }
  ExpectNear(rebuilt, gaussian->covariance, 1e-13);
  const auto values = SymmetricEigenvalues(gaussian->covariance, 24);
  ASSERT_TRUE(values.ok()) << values.status();
  ExpectNear(*values, eigen->values, 1e-13);
}

}  // namespace
}  // namespace shardit
