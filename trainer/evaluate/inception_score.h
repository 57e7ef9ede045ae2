// Inception Score (Salimans et al., arXiv 1606.03498, section 4): exp(mean over samples of KL(p(y|x) || p(y))), with
// p(y|x) the softmax of a classifier's logits and p(y) its mean over the samples of a split.
//
// Samples are cut into max(1, samples / split_size) consecutive splits of nearly equal size; none is left out. For
// multiples of split_size these are ADM's splits (5000 each). The score is the mean of the splits' scores, and the
// standard deviation is taken over them (divided by their number), as is customary: it is 0 for one split.
//
// Computed in double from sums over samples: those of ranks merge, and agree with one rank's to rounding.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/math.h"

namespace shardit {

struct InceptionScoreOptions {
  int64_t samples = 0;  // in the whole set, >= 1
  int64_t classes = 0;  // >= 1
  int64_t split_size = 5000;
  // Resamples for an interval, each drawn within the splits; 0: none. Each costs 2 samples * classes flops, and all of
  // them together 8 splits * replicates * classes bytes.
  int64_t replicates = 0;
  uint64_t seed = 0;  // of the resamples
};

struct InceptionScore {
  double mean = 0.0;
  double standard_deviation = 0.0;
  int64_t splits = 0;
  std::vector<double> replicates;  // the mean of each replicate, for BootstrapInterval
};

// Sums over the samples seen so far. A value type of one owner thread.
class InceptionScoreSums {
 public:
  // Sizes at least 1, replicates at least 0 (CHECK).
  explicit InceptionScoreSums(const InceptionScoreOptions& options);

  // logits [count, classes] of samples first, first + 1, ..., which must lie in the set (CHECK). Every sample is to be
  // added once, on one rank. Logits that are not finite are InvalidArgument (exit code 77), naming the sample.
  absl::Status Add(int64_t first, const float* logits, int64_t count);
  // FailedPrecondition unless as many samples as the set has were added.
  absl::StatusOr<InceptionScore> Score() const;

  // All sums as one array: adding up those of ranks that saw different samples (an all-reduce of doubles) and writing
  // them back merges the sets.
  std::vector<double>& sums() { return sums_; }

 private:
  absl::Status AddToSplit(int64_t split, int64_t first, const float* logits, int64_t count);
  const double* RowOf(int64_t split, int64_t replicate) const;
  double SplitScore(int64_t split, int64_t replicate) const;
  double MeanScore(int64_t replicate) const;

  InceptionScoreOptions options_;
  int64_t splits_ = 1;
  int64_t row_ = 0;
  // For every split, and in it for the set itself and then every replicate, a row of classes + 2: the sum of the
  // softmax, the sum over samples of sum_y p log p, and the number of samples.
  std::vector<double> sums_;
};

}  // namespace shardit
