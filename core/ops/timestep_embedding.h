// TimestepEmbedding: sinusoidal features of the diffusion timestep (DiT, arXiv 2212.09748, section 3.2; Vaswani et al.,
// arXiv 1706.03762, section 3.5).
//
//   out[n] = [cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) .. sin(t f_{h-1})],  f_i = exp(-ln(10000) i / h),  h = dim / 2
// t [N] i64 or f32, the original step also where sampling is respaced; out [N, dim] of type `dtype`, computed
// in fp64. dim is
// even, else a CHECK. No gradient: t is data.
#pragma once

#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

Tensor TimestepEmbedding(RankContext& context, const Tensor& t_N, int dim = 256, DType dtype = DType::kF32);

struct TimestepFeaturesArgs {
  const void* t = nullptr;  // [count] of t_dtype: i64 or f32
  DType t_dtype = DType::kI64;
  Elements out;       // [count, dim]
  int64_t count = 0;  // timesteps
  int64_t dim = 0;    // even
};

namespace cpu {

void TimestepFeatures(const TimestepFeaturesArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void TimestepFeatures(const TimestepFeaturesArgs& args, CudaContext& context);

}  // namespace cuda

}  // namespace shardit
