// Our own kernels beside cuBLASLt's: what core/ops/gemm.cu falls back on.
#pragma once

#include <cstdint>

#include "core/ops/gemm.h"

namespace shardit::cuda {

// The epilogue of gemm.h on finished sums, C [rows, columns] from the fp32 sums of the same size; sums may be C itself.
// bias and aux are of one type. Elementwise, one pass.
struct FinishProductArgs {
  int64_t rows = 0, columns = 0;
  const float* sums = nullptr;
  int64_t ldsums = 0;
  Elements c;
  int64_t ldc = 0;
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::kBias;
  ConstElements bias;
  Elements aux;
  int64_t ldaux = 0;
};
void FinishProduct(const FinishProductArgs& args, CudaContext& context);

// The product alone, without epilogue and column sums, for any operands: correct, not fast. Sums in fp32, in order of
// k.
void SimpleProduct(const GemmArgs& args, CudaContext& context);

}  // namespace shardit::cuda
