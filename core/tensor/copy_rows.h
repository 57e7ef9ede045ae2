// Copying, converting and adding rows: the one kernel below every op that moves values without computing.
#pragma once

#include <cstdint>

#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"

namespace shardit {

// For every row n: `count` contiguous elements from source + n * source_stride to destination + n * destination_stride,
// overwriting or adding. Strides in elements; a source stride of 0 repeats one row. CUDA: the two may be of different
// types, fp32 or bf16: elements are converted, sums are taken in fp32. Rows of the destination do not overlap; source
// and destination do not.
struct CopyRowsArgs {
  ConstElements source;
  int64_t source_stride = 0;
  Elements destination;
  int64_t destination_stride = 0;
  bool accumulate = false;
  int64_t rows = 0;
  int64_t count = 0;
};

namespace cpu {

void CopyRows(const CopyRowsArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void CopyRows(const CopyRowsArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void CopyRows(const CopyRowsArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::CopyRows(args, context.cuda()) : cpu::CopyRows(args, context.cpu());
}

}  // namespace shardit
