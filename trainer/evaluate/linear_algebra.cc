#include "trainer/evaluate/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace shardit {
namespace {

// Sizes as the 32-bit interface takes them.
int Int(int64_t value) {
  CHECK(value >= 0 && value <= INT32_MAX) << "[linear_algebra] a size of " << value;
  return static_cast<int>(value);
}

// Destroys `matrix`; with job 'V' its rows become the eigenvectors.
absl::Status Decompose(char job, std::vector<double>& matrix, int64_t dim, std::vector<double>& values) {
  CHECK(dim >= 1 && static_cast<int64_t>(matrix.size()) == dim * dim)
      << "[SymmetricEigen] " << matrix.size() << " numbers for dim " << dim;
  CHECK(std::all_of(matrix.begin(), matrix.end(), [](double value) { return std::isfinite(value); }))
      << "[SymmetricEigen] not finite";
  values.resize(static_cast<size_t>(dim));
  // Column-major, which for a symmetric matrix is the same and makes the vectors rows of ours.
  const int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, job, 'L', Int(dim), matrix.data(), Int(std::max<int64_t>(dim, 1)),
                                  values.data());
  if (info == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the eigen decomposition of a symmetric ", dim, " x ", dim, " matrix failed: LAPACK info ", info));
}

}  // namespace

void SetLinearAlgebraThreads(int threads) {
  CHECK_GE(threads, 1);
  openblas_set_num_threads(threads);
}

void MultiplyTransposed(const MatrixView& a, const MatrixView& b, double* out, int64_t stride) {
  CHECK_EQ(a.columns, b.columns);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, Int(a.rows), Int(b.rows), Int(a.columns), 1.0, a.data,
              Int(a.stride), b.data, Int(b.stride), 0.0, out, Int(stride));
}

void Multiply(const MatrixView& a, const MatrixView& b, double beta, double* out, int64_t stride) {
  CHECK_EQ(a.columns, b.rows);
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, Int(a.rows), Int(b.columns), Int(a.columns), 1.0, a.data,
              Int(a.stride), b.data, Int(b.stride), beta, out, Int(stride));
}

void AddOuterProducts(int64_t count, int64_t dim, const double* rows, double* out) {
  cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, Int(dim), Int(count), 1.0, rows, Int(dim), 1.0, out, Int(dim));
}

absl::StatusOr<EigenSystem> SymmetricEigen(std::vector<double> matrix, int64_t dim) {
  EigenSystem system;
  const absl::Status status = Decompose('V', matrix, dim, system.values);
  if (!status.ok()) return status;
  system.vectors = std::move(matrix);
  return system;
}

absl::StatusOr<std::vector<double>> SymmetricEigenvalues(std::vector<double> matrix, int64_t dim) {
  std::vector<double> values;
  const absl::Status status = Decompose('N', matrix, dim, values);
  if (!status.ok()) return status;
  return values;
}

}  // namespace shardit
