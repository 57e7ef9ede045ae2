// The few calls of BLAS and LAPACK (OpenBLAS) behind the scores, on row-major double matrices. Results are the same
// for the same shapes, threads and processor; another number of threads changes them by rounding only. To be called
// from one thread at a time: OpenBLAS has threads of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace shardit {

// Threads of every later call, for the whole process, >= 1. OpenBLAS by itself takes all cores of the host: a rank
// sets its share (CpuShare::threads) before it computes a score, so that ranks of one host do not oversubscribe it.
void SetLinearAlgebraThreads(int threads);

// out [n, m] = a [n, k] b [m, k]^T + beta * out. `lda`, `ldb` and `ldo` are row strides in elements.
void MultiplyTransposed(int64_t n, int64_t m, int64_t k, const double* a, int64_t lda, const double* b, int64_t ldb,
                        double beta, double* out, int64_t ldo);
// out [n, m] = a [n, k] b [k, m] + beta * out, densely stored.
void Multiply(int64_t n, int64_t m, int64_t k, const double* a, const double* b, double beta, double* out);
// The upper triangle of out [dim, dim] += rows^T rows, with rows [count, dim]. The lower triangle is left alone.
void AddOuterProducts(int64_t count, int64_t dim, const double* rows, double* out);

// A symmetric matrix is vectors^T diag(values) vectors: row i of `vectors` [dim, dim] belongs to values[i], ascending.
struct EigenSystem {
  std::vector<double> values;
  std::vector<double> vectors;
};
// Of the symmetric `matrix` [dim, dim], of which one triangle is read. LAPACK's divide and conquer (dsyevd); backward
// stable: the values are off by some 1e-16 of the largest. ResourceExhausted where it does not converge, which finite
// input has never been seen to do. Input must be finite (CHECK).
absl::StatusOr<EigenSystem> SymmetricEigen(std::vector<double> matrix, int64_t dim);
absl::StatusOr<std::vector<double>> SymmetricEigenvalues(std::vector<double> matrix, int64_t dim);

}  // namespace shardit
