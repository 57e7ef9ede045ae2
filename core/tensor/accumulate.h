// destination += source, element by element, for two tensors of one shape whose last dim is contiguous: fp32 on the
// CPU, each fp32 or bf16 on a GPU (sums in fp32, rounded once).
#pragma once

#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

void Accumulate(RankContext& context, const Tensor& destination, const Tensor& source);

}  // namespace shardit
