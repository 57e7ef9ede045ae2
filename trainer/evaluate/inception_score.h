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
  void LoadWeights(int64_t split, Range range);
  // Row 0 of a split is the set itself, row r replicate r - 1.
  double SplitScore(int64_t split, int64_t row) const;
  std::vector<double> SplitScores(int64_t row) const;

  InceptionScoreOptions options_;
  int64_t splits_ = 1;
  int64_t row_ = 0;  // numbers a row of sums_
  // For every split and every row of it: the sum of the softmax [classes], the sum over samples of sum_y p log p, and
  // the number of samples.
  std::vector<double> sums_;
  // How often each sample of a split counts in each of its rows; kept while samples of the same split come.
  std::vector<double> weights_;
  int64_t weights_split_ = -1;
};

}  // namespace shardit
