// The few calls of BLAS and LAPACK (OpenBLAS) behind the scores, on row-major double matrices. Results are the same
// for the same shapes, threads and processor; another number of threads changes them by rounding only. To be called
// from one thread at a time, as OpenBLAS has threads of its own; from several once SetLinearAlgebraThreads(1) was
// called.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace shardit {

// Threads of every later call, for the whole process, >= 1. OpenBLAS by itself takes all cores of the host: a rank
// sets its share (CpuShare::threads) before it computes a score, so that ranks of one host do not oversubscribe it.
void SetLinearAlgebraThreads(int threads);

// A row-major matrix in memory: `stride` elements from one row to the next.
struct MatrixView {
  const double* data = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t stride = 0;
};

// out [a.rows, b.rows] = a b^T, rows of `out` `stride` elements apart. Equal columns (CHECK).
void MultiplyTransposed(const MatrixView& a, const MatrixView& b, double* out, int64_t stride);
// out [a.rows, b.columns] = a b + beta * out. a.columns == b.rows (CHECK).
void Multiply(const MatrixView& a, const MatrixView& b, double beta, double* out, int64_t stride);
// The upper triangle of out [dim, dim] += rows^T rows, with rows [count, dim]. The lower triangle is left alone.
void AddOuterProducts(int64_t count, int64_t dim, const double* rows, double* out);

// A symmetric matrix is vectors^T diag(values) vectors: row i of `vectors` [dim, dim] belongs to values[i], ascending.
struct EigenSystem {
  std::vector<double> values;
  std::vector<double> vectors;
};
// Of the symmetric `matrix` [dim, dim], dim >= 1, of finite numbers (CHECK). LAPACK's divide and conquer (dsyevd),
// backward stable: values are off by some 1e-16 of the largest. Internal where it does not converge.
absl::StatusOr<EigenSystem> SymmetricEigen(std::vector<double> matrix, int64_t dim);
absl::StatusOr<std::vector<double>> SymmetricEigenvalues(std::vector<double> matrix, int64_t dim);

}  // namespace shardit
