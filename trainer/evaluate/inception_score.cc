#include "trainer/evaluate/inception_score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "trainer/evaluate/bootstrap.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kBlockSamples = 256;

// Writes softmax(logits) [classes], then sum_y p log p, then 1: the columns whose sums make a score. False where they
// are not finite.
bool WriteColumns(const float* logits, int64_t classes, double* out) {
  const double largest = *std::max_element(logits, logits + classes);
  double sum = 0.0;
  for (int64_t y = 0; y < classes; ++y) sum += std::exp(static_cast<double>(logits[y]) - largest);
  const double log_sum = std::log(sum);
  double negative_entropy = 0.0;
  for (int64_t y = 0; y < classes; ++y) {
    const double log_p = static_cast<double>(logits[y]) - largest - log_sum;
    out[y] = std::exp(log_p);
    negative_entropy += out[y] * log_p;
  }
  out[classes] = negative_entropy;
  out[classes + 1] = 1.0;
  return std::isfinite(negative_entropy);
}

}  // namespace

InceptionScoreSums::InceptionScoreSums(const InceptionScoreOptions& options) : options_(options) {
  CHECK(options.samples >= 1 && options.classes >= 1 && options.split_size >= 1 && options.replicates >= 0)
      << "[InceptionScoreSums] samples " << options.samples << ", classes " << options.classes << ", split_size "
      << options.split_size << ", replicates " << options.replicates;
  splits_ = std::max<int64_t>(1, options.samples / options.split_size);
  row_ = options.classes + 2;
  sums_.resize(static_cast<size_t>(splits_ * (1 + options.replicates) * row_));
}

absl::Status InceptionScoreSums::Add(int64_t first, const float* logits, int64_t count) {
  CHECK(first >= 0 && count >= 0 && count <= options_.samples - first)
      << "[InceptionScoreSums] samples " << first << " + " << count << " of " << options_.samples;
  for (int64_t split = 0; split < splits_; ++split) {
    const Range range = PartRange(options_.samples, splits_, split);
    const int64_t begin = std::max(first, range.begin), end = std::min(first + count, range.end);
    for (int64_t block = begin; block < end; block += kBlockSamples) {
      RETURN_IF_ERROR(
          AddToSplit(split, block, logits + (block - first) * options_.classes, std::min(kBlockSamples, end - block)));
    }
  }
  return absl::OkStatus();
}

absl::Status InceptionScoreSums::AddToSplit(int64_t split, int64_t first, const float* logits, int64_t count) {
  const Range range = PartRange(options_.samples, splits_, split);
  std::vector<double> columns(static_cast<size_t>(count * row_));
  for (int64_t i = 0; i < count; ++i) {
    if (WriteColumns(logits + i * options_.classes, options_.classes, columns.data() + i * row_)) continue;
    return WithExitCode(
        absl::InvalidArgumentError(absl::StrCat("Inception Score: the logits of sample ", first + i,
                                                " hold a number that is not finite; check the samples for NaNs")),
        ExitCode::kNumerics);
  }
  LoadWeights(split, range);
  // Every sum is a row of weights, those of the set itself or of a replicate, times these columns.
  const MatrixView weights{weights_.data() + (first - range.begin), 1 + options_.replicates, count, range.size()};
  Multiply(weights, {columns.data(), count, row_, row_}, 1.0, sums_.data() + split * (1 + options_.replicates) * row_,
           row_);
  return absl::OkStatus();
}

void InceptionScoreSums::LoadWeights(int64_t split, Range range) {
  if (weights_split_ == split) return;
  weights_split_ = split;
  weights_.assign(static_cast<size_t>(range.size()), 1.0);
  for (int64_t replicate = 0; replicate < options_.replicates; ++replicate) {
    const std::vector<uint32_t> counts = ResampleCounts(options_.seed, replicate, range);
    weights_.insert(weights_.end(), counts.begin(), counts.end());
  }
}

double InceptionScoreSums::SplitScore(int64_t split, int64_t row) const {
  const double* sums = sums_.data() + (split * (1 + options_.replicates) + row) * row_;
  const double samples = sums[options_.classes + 1];
  double divergence = sums[options_.classes] / samples;
  for (int64_t y = 0; y < options_.classes; ++y) {
    const double marginal = sums[y] / samples;
    if (marginal > 0.0) divergence -= marginal * std::log(marginal);
  }
  return std::exp(divergence);
}

std::vector<double> InceptionScoreSums::SplitScores(int64_t row) const {
  std::vector<double> scores;
  for (int64_t split = 0; split < splits_; ++split) scores.push_back(SplitScore(split, row));
  return scores;
}

absl::StatusOr<InceptionScore> InceptionScoreSums::Score() const {
  double added = 0.0;
  for (int64_t split = 0; split < splits_; ++split) {
    added += sums_[split * (1 + options_.replicates) * row_ + options_.classes + 1];
  }
  if (added != static_cast<double>(options_.samples)) {
    return absl::FailedPreconditionError(
        absl::StrCat("Inception Score: ", added, " of ", options_.samples, " samples were added"));
  }
  const auto mean_of = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  const std::vector<double> scores = SplitScores(0);
  InceptionScore score;
  score.splits = splits_;
  score.mean = mean_of(scores);
  double squares = 0.0;
  for (const double value : scores) squares += (value - score.mean) * (value - score.mean);
  score.standard_deviation = std::sqrt(squares / static_cast<double>(splits_));
  for (int64_t row = 1; row <= options_.replicates; ++row) score.replicates.push_back(mean_of(SplitScores(row)));
  return score;
}

}  // namespace shardit
