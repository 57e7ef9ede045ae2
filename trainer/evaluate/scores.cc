#include "trainer/evaluate/scores.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "trainer/evaluate/bootstrap.h"
#include "trainer/evaluate/frechet.h"
#include "trainer/evaluate/inception_score.h"
#include "trainer/evaluate/precision_recall.h"

namespace shardit {
namespace {

// Resamples are the same in every evaluation: two checkpoints are compared on the same draws.
constexpr uint64_t kResampleSeed = 0;
constexpr int64_t kRowsOfPiece = 256;  // of distances between sets

Score ScoreOf(double value, std::vector<double> replicates, double lowest, double highest) {
  Score score{value};
  if (replicates.empty()) return score;
  const Interval interval = BootstrapInterval(value, std::move(replicates), lowest, highest);
  score.low = interval.low;
  score.high = interval.high;
  return score;
}

Score FractionScore(const std::vector<uint8_t>& indicators, int64_t replicates) {
  return ScoreOf(Fraction(indicators), BootstrapFractions(indicators, kResampleSeed, {0, replicates}), 0.0, 1.0);
}

absl::StatusOr<std::vector<double>> DealRadii(const Crew& crew, const FeatureRows& set, int64_t neighbours) {
  return Deal<double>(crew, set.count, kRowsOfPiece, [&](Range rows) { return SquaredRadii(set, rows, neighbours); });
}

// Which rows of `queries` lie on the manifold of `set`.
absl::StatusOr<std::vector<uint8_t>> DealHits(const Crew& crew, const FeatureRows& queries, const FeatureRows& set,
                                              const std::vector<double>& radii) {
  return Deal<uint8_t>(crew, queries.count, kRowsOfPiece,
                       [&](Range rows) { return OnManifold(queries, rows, set, radii); });
}

}  // namespace

absl::StatusOr<Gaussian> GaussianOf(const FeatureRows& rows) {
  Moments moments(rows.dim);
  moments.Add(rows.data, rows.count);
  return moments.Estimate();
}

absl::StatusOr<Score> FrechetScore(const Crew& crew, const Gaussian& samples, const FeatureRows* rows,
                                   const Gaussian& reference, int64_t replicates) {
  ASSIGN_OR_RETURN(const FrechetReference prepared, FrechetReference::Create(reference));
  ASSIGN_OR_RETURN(const double distance, prepared.DistanceTo(samples));
  std::vector<double> distances;
  if (rows != nullptr) {
    ASSIGN_OR_RETURN(distances, Deal<double>(crew, replicates, 1, [&](Range range) {
                       return BootstrapFrechet(*rows, prepared, kResampleSeed, range);
                     }));
  }
  return ScoreOf(distance, std::move(distances), 0.0, std::numeric_limits<double>::infinity());
}

absl::StatusOr<InceptionScoreResult> InceptionScoreOf(const FeatureSet& samples, int64_t split, int64_t replicates) {
  InceptionScoreSums sums({.samples = samples.count,
                           .classes = samples.classes,
                           .split_size = split,
                           .replicates = replicates,
                           .seed = kResampleSeed});
  RETURN_IF_ERROR(sums.Add(0, samples.logits.data(), samples.count));
  ASSIGN_OR_RETURN(InceptionScore score, sums.Score());
  const double highest = static_cast<double>(samples.classes);
  return InceptionScoreResult{ScoreOf(score.mean, std::move(score.replicates), 1.0, highest), score.standard_deviation};
}

absl::StatusOr<PrecisionRecall> PrecisionRecallOf(const Crew& crew, const FeatureRows& samples,
                                                  const FeatureRows& reference, int64_t neighbours,
                                                  int64_t replicates) {
  ASSIGN_OR_RETURN(const std::vector<double> reference_radii, DealRadii(crew, reference, neighbours));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> precise, DealHits(crew, samples, reference, reference_radii));
  ASSIGN_OR_RETURN(const std::vector<double> sample_radii, DealRadii(crew, samples, neighbours));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> recalled, DealHits(crew, reference, samples, sample_radii));
  return PrecisionRecall{FractionScore(precise, replicates), FractionScore(recalled, replicates)};
}

Score AgreementOf(const FeatureSet& set, std::span<const int32_t> labels, int64_t replicates) {
  CHECK(static_cast<int64_t>(labels.size()) == set.count && set.classes > 0)
      << "[AgreementOf] " << labels.size() << " labels of " << set.count << " rows";
  std::vector<uint8_t> agree;
  for (int64_t i = 0; i < set.count; ++i) {
    const float* logits = set.logits.data() + i * set.classes;
    const auto choice = std::max_element(logits, logits + set.classes) - logits;
    agree.push_back(choice == labels[static_cast<size_t>(i)] ? 1 : 0);
  }
  return FractionScore(agree, replicates);
}

}  // namespace shardit
