// Mean and covariance of feature vectors, gathered a batch at a time, in double.
//
// Kept as a weight, a mean and the sum of outer products of what is left after subtracting the mean, and merged by the
// update of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances",
// 1979): no difference of large numbers, so that any split of the rows over calls and ranks agrees to about 1e-12 of
// the covariance. A batch of n rows costs n dim^2 flops (dsyrk) and 8 dim^2 bytes are held.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shardit {

// A normal distribution: mean [dim] and covariance [dim, dim], row-major and symmetric.
struct Gaussian {
  std::vector<double> mean;
  std::vector<double> covariance;

  int64_t dim() const { return static_cast<int64_t>(mean.size()); }
};

// A value type of one owner thread.
class Moments {
 public:
  explicit Moments(int64_t dim);  // dim >= 1

  // rows [count, dim], row-major. Values that are not finite spoil mean and covariance, which then are not finite.
  void Add(const float* rows, int64_t count);
  // Row i counts weights[i] >= 0 times, as in a resample; rows of weight 0 cost nothing.
  void AddWeighted(const float* rows, const uint32_t* weights, int64_t count);
  // This becomes the moments of both sets of rows. Equal dims (CHECK).
  void Merge(const Moments& other);

  int64_t dim() const { return dim_; }
  int64_t count() const { return count_; }  // rows, with their weights
  const std::vector<double>& mean() const { return mean_; }
  // Sum of outer products over count - 1, as numpy.cov(rows, rowvar=False). Needs two rows: InvalidArgument.
  absl::StatusOr<Gaussian> Estimate() const;

  // For messages between ranks: 8 (2 + dim + dim (dim + 1) / 2) bytes, little-endian.
  std::string Serialize() const;
  // Refuses, as InvalidArgument, what Serialize of `dim` dims cannot have written.
  static absl::StatusOr<Moments> Parse(absl::string_view bytes, int64_t dim);

 private:
  void AddBlock(const float* rows, const uint32_t* weights, int64_t count);
  // Takes in `count` rows whose mean is `mean` and whose outer products about it are already in scatter_.
  void ShiftMean(int64_t count, const std::vector<double>& mean);

  int64_t dim_;
  int64_t count_ = 0;
  std::vector<double> mean_;
  std::vector<double> scatter_;  // [dim, dim], upper triangle
};

}  // namespace shardit
