// TimestepEmbedding: sinusoidal features of the diffusion timestep (DiT, arXiv 2212.09748, section 3.2; Vaswani et al.,
// arXiv 1706.03762, section 3.5).
//
//   out[n] = [cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) .. sin(t f_{h-1})],  f_i = exp(-ln(10000) i / h),  h = dim / 2
// t [N] i64 or f32, the original step also where sampling is respaced; out [N, dim] fp32, computed in fp64. dim is
// even, else a CHECK. No gradient: t is data.
#pragma once

#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

Tensor TimestepEmbedding(RankContext& context, const Tensor& t_N, int dim = 256);

}  // namespace shardit
