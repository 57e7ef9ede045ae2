#include "trainer/evaluate/frechet.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

bool AllFinite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

absl::Status NotFinite(absl::string_view what) {
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                          "Frechet distance: ", what, " a number that is not finite; check the samples for NaNs")),
                      ExitCode::kNumerics);
}

// Shapes are ours to get right, values are not. A mean that is not finite shows in the distance.
absl::Status CheckGaussian(const Gaussian& gaussian) {
  CHECK(gaussian.dim() >= 1 && gaussian.covariance.size() == gaussian.mean.size() * gaussian.mean.size())
      << "[FrechetReference] mean [" << gaussian.mean.size() << "], covariance of " << gaussian.covariance.size();
  return AllFinite(gaussian.covariance) ? absl::OkStatus() : NotFinite("a covariance of features holds");
}

double Trace(const std::vector<double>& matrix, int64_t dim) {
  double trace = 0.0;
  for (int64_t i = 0; i < dim; ++i) trace += matrix[i * dim + i];
  return trace;
}

}  // namespace

absl::StatusOr<FrechetReference> FrechetReference::Create(const Gaussian& gaussian) {
  RETURN_IF_ERROR(CheckGaussian(gaussian));
  const int64_t dim = gaussian.dim();
  ASSIGN_OR_RETURN(EigenSystem eigen, SymmetricEigen(gaussian.covariance, dim));
  // Values ascend: those up to 0 are left out, which changes no product and makes the root smaller.
  const auto positive = std::upper_bound(eigen.values.begin(), eigen.values.end(), 0.0);
  const int64_t dropped = positive - eigen.values.begin();
  FrechetReference reference;
  reference.mean_ = gaussian.mean;
  reference.trace_ = Trace(gaussian.covariance, dim);
  reference.rank_ = dim - dropped;
  reference.root_.assign(eigen.vectors.begin() + dropped * dim, eigen.vectors.end());
  for (int64_t row = 0; row < reference.rank_; ++row) {
    const double scale = std::sqrt(eigen.values[dropped + row]);
    for (int64_t i = 0; i < dim; ++i) reference.root_[row * dim + i] *= scale;
  }
  return reference;
}

absl::StatusOr<double> FrechetReference::DistanceTo(const Gaussian& other) const {
  if (other.dim() != dim()) {
    return absl::InvalidArgumentError(absl::StrCat("Frechet distance: the reference has ", dim(), " dims, the samples ",
                                                   other.dim(), "; both must come from the same extractor"));
  }
  RETURN_IF_ERROR(CheckGaussian(other));
  double distance = trace_ + Trace(other.covariance, dim());
  for (int64_t i = 0; i < dim(); ++i) distance += (mean_[i] - other.mean[i]) * (mean_[i] - other.mean[i]);
  if (rank_ > 0) {
    // root B root^T has the eigenvalues of A^1/2 B A^1/2, but for zeros.
    std::vector<double> half(root_.size());
    std::vector<double> product(static_cast<size_t>(rank_ * rank_));
    const MatrixView root{root_.data(), rank_, dim(), dim()};
    Multiply(root, {other.covariance.data(), dim(), dim(), dim()}, 0.0, half.data(), dim());
    MultiplyTransposed({half.data(), rank_, dim(), dim()}, root, product.data(), rank_);
    if (!AllFinite(product)) return NotFinite("the product of the covariances holds");
    ASSIGN_OR_RETURN(const std::vector<double> values, SymmetricEigenvalues(std::move(product), rank_));
    for (const double value : values) distance -= 2.0 * std::sqrt(std::max(value, 0.0));
  }
  if (!std::isfinite(distance)) return NotFinite("the distance itself is");
  return std::max(distance, 0.0);
}

absl::StatusOr<double> FrechetDistance(const Gaussian& a, const Gaussian& b) {
  ASSIGN_OR_RETURN(const FrechetReference reference, FrechetReference::Create(a));
  return reference.DistanceTo(b);
}

}  // namespace shardit
