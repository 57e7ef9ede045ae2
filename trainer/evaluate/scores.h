// The scores of a set of features with their intervals: the arithmetic of frechet.h, inception_score.h,
// precision_recall.h and bootstrap.h, shared out over ranks and threads. Every rank gets the same results; they do not
// depend on the number of ranks and threads (linear algebra runs on one thread each: the caller sees to it, with
// SetLinearAlgebraThreads(1)). Features are finite.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/evaluate/deal.h"
#include "trainer/evaluate/evaluate_report.h"
#include "trainer/evaluate/extract_features.h"
#include "trainer/evaluate/feature_rows.h"
#include "trainer/evaluate/moments.h"

namespace shardit {

// Mean and covariance; at least two rows.
absl::StatusOr<Gaussian> GaussianOf(const FeatureRows& rows);

// Between `samples` and `reference`; with an interval where `rows`, those that `samples` is of, are given and there are
// replicates.
absl::StatusOr<Score> FrechetScore(const Crew& crew, const Gaussian& samples, const FeatureRows* rows,
                                   const Gaussian& reference, int64_t replicates);

struct InceptionScoreResult {
  Score score;
  double standard_deviation = 0;  // over the splits
};
absl::StatusOr<InceptionScoreResult> InceptionScoreOf(const FeatureSet& samples, int64_t split, int64_t replicates);

struct PrecisionRecall {
  Score precision, recall;
};
// Both sets have more than `neighbours` rows.
absl::StatusOr<PrecisionRecall> PrecisionRecallOf(const Crew& crew, const FeatureRows& samples,
                                                  const FeatureRows& reference, int64_t neighbours, int64_t replicates);

// The part of the rows of `set.logits` whose largest entry is the row's label: one label a row.
Score AgreementOf(const FeatureSet& set, std::span<const int32_t> labels, int64_t replicates);

}  // namespace shardit
