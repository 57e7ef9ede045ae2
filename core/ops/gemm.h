// Single-precision matrix product with fused epilogues: the arithmetic of every linear layer, forward and backward.
//
// All matrices are row-major with a leading dimension (elements from one row to the next, >= the row's length).
// C is [m, n]; k is the length of the sums:
//   kNT  C = A B^T   A [m, k], B [n, k]   forward:          y[M, out]   = x[M, in] W[out, in]^T
//   kNN  C = A B     A [m, k], B [k, n]   input gradient:   dx[M, in]   = dy[M, out] W[out, in]
//   kTN  C = A^T B   A [k, m], B [k, n]   weight gradient:  dW[out, in] = dy[M, out]^T x[M, in]
// With accumulate, C += the product (a weight gradient that adds to the main gradient); else C is overwritten.
//
// Epilogue, applied to the finished sum s of element (i, j) as it is stored:
//   kNone      C = s                          (+ C, with accumulate)
//   kBias      C = s + bias[j]                (+ C, with accumulate)
//   kBiasGelu  aux = s + bias[j]; C = gelu(aux)        aux is written: the pre-activation that backward needs
//   kGeluGrad  C = s * gelu'(aux)                      aux is read
// gelu is the tanh form (Hendrycks and Gimpel, arXiv 1606.08415, as in DiT). bias is [n], may be null for kBiasGelu.
// aux is [m, n] with leading dimension ldaux. The GELU epilogues do not combine with accumulate.
//
// Types: on the CPU all operands are fp32. On CUDA a and b are both fp32 or both bf16; bias and aux are of their type;
// c is of their type or, without a GELU epilogue, fp32; column_sums are fp32.
//
// Numbers: fp32 accumulation, one rounding of the result; fp32 operands may be rounded to TF32 where
// CudaContext::tf32 says so. On the CPU the order of an element's sum is a function of form, sizes and instruction
// set: the result does not depend on the number of threads, and is the same bits in every call. m, n or k of 0 are
// allowed (k == 0: the product is 0).
//
// Aliasing: C and aux overlap neither each other nor any input.
//
// Threads: one static partition over the pool; packed panels live in the workspace. Blocks until C is complete.
#pragma once

#include <cstdint>

#include "core/base/cpu_context.h"
#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"

namespace shardit {

enum class GemmForm { kNT, kNN, kTN };
enum class GemmEpilogue { kNone, kBias, kBiasGelu, kGeluGrad };

struct GemmArgs {
  GemmForm form = GemmForm::kNT;
  int64_t m = 0, n = 0, k = 0;
  ConstElements a;
  int64_t lda = 0;
  ConstElements b;
  int64_t ldb = 0;
  Elements c;
  int64_t ldc = 0;
  bool accumulate = false;

  GemmEpilogue epilogue = GemmEpilogue::kNone;
  ConstElements bias;  // [n]
  Elements aux;        // [m, n]: written by kBiasGelu, read by kGeluGrad
  int64_t ldaux = 0;

  // CPU: the bits of a row of C do not depend on m. Without it a product of few rows may take a faster way.
  bool independent_rows = false;

  // kTN only: when not null, column_sums[i] = sum over k of A[k, i], for i in [0, m): the bias gradient, taken while A
  // is read for the product. Adds to what is there with accumulate_column_sums.
  float* column_sums = nullptr;
  bool accumulate_column_sums = false;

  // kNT with kNone or kBias only: `batch` products with one A. Product i reads B at b + i * b_stride and the bias at
  // bias + i * bias_stride, and writes C at c + i * c_stride. Strides in elements.
  int64_t batch = 1;
  int64_t b_stride = 0, bias_stride = 0, c_stride = 0;
};

namespace cpu {

void Gemm(const GemmArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void Gemm(const GemmArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void Gemm(const GemmArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::Gemm(args, context.cuda()) : cpu::Gemm(args, context.cpu());
}

}  // namespace shardit
