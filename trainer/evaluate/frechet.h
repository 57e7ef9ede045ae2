// The Frechet distance between two normal distributions (Dowson and Landau, 1982), which between the features of two
// sets of images is the FID (Heusel et al., arXiv 1706.08500, section 4):
//
//   |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)
//
// The last trace equals that of (A B)^1/2, which other programs take from a general matrix square root; here both roots
// are of symmetric matrices, so nothing becomes complex and covariances of fewer samples than dims need no offset on
// the diagonal. Eigenvalues that rounding made negative count as 0; so does a distance.
//
// Accuracy: 1e-10 of the traces where the covariances have full rank. Where they have not, a zero eigenvalue is known
// to 1e-16 of the largest, its root to 1e-8: about 1e-8 of the largest eigenvalue for each missing rank.
//
// The distance between samples of a distribution and the distribution itself is not 0: it is biased upwards by about
// 1 / samples. Compare distances of equal sample counts only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/evaluate/moments.h"

namespace shardit {

// One of the two distributions, with its root: the part of the work that many distances to it share (4 dim^3 flops and
// an eigen decomposition). Immutable.
class FrechetReference {
 public:
  // InvalidArgument (exit code 77) where the covariance is not finite.
  static absl::StatusOr<FrechetReference> Create(const Gaussian& gaussian);

  // InvalidArgument where dims differ or a number is not finite (exit code 77). 4 dim^3 flops and dim eigenvalues.
  absl::StatusOr<double> DistanceTo(const Gaussian& other) const;

  int64_t dim() const { return static_cast<int64_t>(mean_.size()); }

 private:
  FrechetReference() = default;
  std::vector<double> mean_;
  double trace_ = 0.0;
  int64_t rank_ = 0;          // eigenvalues above 0
  std::vector<double> root_;  // [rank, dim]: the covariance is root^T root
};

absl::StatusOr<double> FrechetDistance(const Gaussian& a, const Gaussian& b);

}  // namespace shardit
