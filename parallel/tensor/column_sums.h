// The bias gradient of a seam on a GPU.
#pragma once

#include <cstdint>

#include "core/tensor/cuda_context.h"
#include "core/tensor/elements.h"

namespace shardit {

// sums[j] = the sum over rows of x[row, j], or, with accumulate, added to what is there. x is dense [rows, width], fp32
// or bf16; sums are fp32 and overlap nothing. rows >= 1.
struct ColumnSumsArgs {
  ConstElements x;
  int64_t rows = 0;
  int64_t width = 0;
  float* sums = nullptr;
  bool accumulate = false;
};

namespace cuda {

// fp32 sums in an order that sizes and device decide: the same bits in every run. One pass over x.
void ColumnSums(const ColumnSumsArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
