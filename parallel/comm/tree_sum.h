// The sum of one array per rank on a GPU, in the tree order of parallel/comm/reduce.h: bit for bit what TreeReduce
// gives on the host.
#pragma once

#include <cstdint>

#include "core/tensor/device.h"
#include "core/tensor/elements.h"

namespace shardit::cuda {

struct TreeSumArgs {
  // Rank r's array: `own` for r == rank; of the others, in rank order, the next `count` elements of `others` each.
  ConstElements own;
  ConstElements others;
  int ranks = 0;  // at most 1 << 16
  int rank = 0;
  Elements out;  // may be `own`; overlaps nothing else
  int64_t count = 0;
};

// f32, f64, or bf16, which is summed in fp32 and rounded once; all operands of one type. In the order of `stream`.
void TreeSum(const TreeSumArgs& args, Stream stream);

}  // namespace shardit::cuda
