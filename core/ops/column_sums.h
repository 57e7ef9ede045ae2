// Sums over the rows of a matrix on CUDA: bias gradients, where the matrix product does not bring them along.
#pragma once

#include <cstdint>

#include "core/tensor/cuda_context.h"
#include "core/tensor/elements.h"

namespace shardit::cuda {

// sums[j] (+)= sum over i of x[i, j] for x [rows, columns], row-major, fp32 or bf16; sums are fp32. One pass over x.
// Summed in fp32, in an order that depends on the sizes and on the device only: the same bits in every call. No rows:
// the sum is 0. Uses the context's scratch.
struct ColumnSumsArgs {
  int64_t rows = 0;
  int64_t columns = 0;
  ConstElements x;
  int64_t ld = 0;  // elements from one row to the next
  float* sums = nullptr;
  bool accumulate = false;
};
void ColumnSums(const ColumnSumsArgs& args, CudaContext& context);

}  // namespace shardit::cuda
