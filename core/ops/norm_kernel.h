// Token rows of a transformer block's seams in one pass each way: gated residual sum, layer norm (Ba et al., "Layer
// normalization", arXiv 1607.06450) and its affine step or modulation (Peebles and Xie, DiT, arXiv 2212.09748, section
// 3.2). The arithmetic below layer_norm.h and gated_residual.h.
//
//   r[n, t] = x[n, t] + gate[n] * y[n, t]        (y absent: r = x; gate absent: r = x + y)
//   xhat = (r - mean(r)) / sqrt(var(r) + eps)    mean and (biased) variance over the row's `width` elements
//   h[n, t] = xhat * (scale_offset + scale[n]) + shift[n]
// and backward, with g = dh * (scale_offset + scale):
//   dr = dr_in + (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps)
//   dx = dr     dy = gate * dr     dgate[n] = sum_t dr * y     dshift[n] = sum_t dh     dscale[n] = sum_t dh * xhat
//
// Types: token tensors (x, y, r, h and their gradients) are of one type, fp32 or bf16; rows per image (gate, scale,
// shift) are of that type or fp32, and so, each by itself, are their gradients; mean and rstd are fp32. On the CPU all
// are fp32.
//
// Numbers: fp32 arithmetic. On the CPU a row is summed in wide lanes, then the lanes. Sums over tokens go by groups of
// 4, runs of 32 tokens and then the runs in groups of 16, always in the same order, so the bits do not depend on the
// number of threads. On CUDA the runs follow the shape and the device's number of multiprocessors, and are added in
// their order. In bf16 the norm is that of r as stored; backward rounds what it stores and nothing else.
//
// Token tensors are dense [images, tokens, width]. Aliasing: dx may be dr_in; otherwise outputs overlap nothing. CPU:
// threads share out runs of tokens; blocks until done; partial sums live in the shared workspace. CUDA: in stream
// order; partial sums live in the scratch memory.
#pragma once

#include <cstdint>

#include "core/base/cpu_context.h"
#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"

namespace shardit {

// One row of `width` contiguous elements per image: row n is data + n * stride. Stride 0: one row for all images.
struct ImageRows {
  ConstElements data;
  int64_t stride = 0;  // elements
};

// Gradient of such rows: overwritten, or added to. Stride 0: the sum over all images. Null data: not wanted.
struct ImageRowsGrad {
  Elements data;
  int64_t stride = 0;  // elements
  bool accumulate = false;
};

struct NormShape {
  int64_t images = 0;
  int64_t tokens = 0;  // rows per image
  int64_t width = 0;
};

struct NormFwdArgs {
  NormShape shape;
  ConstElements x;
  ConstElements y;      // null: no residual sum
  ImageRows gate = {};  // null data: gate of 1
  Elements r;           // written where y is given

  Elements h;  // null: no norm
  float eps = 0;
  ImageRows scale = {};
  float scale_offset = 0;  // 1 for a modulation by (1 + scale)
  ImageRows shift = {};
  float* mean = nullptr;  // [images, tokens], with h; null when no backward follows
  float* rstd = nullptr;  // 1 / sqrt(var + eps), likewise
};

struct NormBwdArgs {
  NormShape shape;
  ConstElements dh;     // null: h had no consumer
  ConstElements dr_in;  // gradient of r from elsewhere; null: none
  Elements dx;          // overwritten

  // With dh: what forward read and saved.
  ConstElements r;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  ImageRows scale = {};
  float scale_offset = 0;
  ImageRowsGrad dscale = {};
  ImageRowsGrad dshift = {};

  // With a residual sum; y only where dgate is wanted.
  ImageRows gate = {};
  ConstElements y;
  Elements dy;  // overwritten; null: not wanted
  ImageRowsGrad dgate = {};
};

namespace cpu {

void NormFwd(const NormFwdArgs& args, CpuContext& context);
void NormBwd(const NormBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void NormFwd(const NormFwdArgs& args, CudaContext& context);
void NormBwd(const NormBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void NormFwd(const NormFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::NormFwd(args, context.cuda()) : cpu::NormFwd(args, context.cpu());
}
inline void NormBwd(const NormBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::NormBwd(args, context.cuda()) : cpu::NormBwd(args, context.cpu());
}

}  // namespace shardit
