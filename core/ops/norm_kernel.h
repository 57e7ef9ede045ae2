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
// Numbers: fp32; a row is summed in wide lanes, then the lanes. Sums over tokens go by groups of 4, runs of 32 tokens
// and then the runs in groups of 16, always in the same order, so the bits do not depend on the number of threads.
// Token tensors are dense [images, tokens, width]. Aliasing: dx may be dr_in; otherwise outputs overlap nothing.
// Threads: static partition over runs of tokens. Blocks until done. Partial sums live in the shared workspace.
#pragma once

#include <cstdint>

#include "core/base/cpu_context.h"

namespace shardit {

// One row of `width` contiguous elements per image: row n is data + n * stride. Stride 0: one row for all images.
struct ImageRows {
  const float* data = nullptr;
  int64_t stride = 0;  // elements
};

// Gradient of such rows: overwritten, or added to. Stride 0: the sum over all images. Null data: not wanted.
struct ImageRowsGrad {
  float* data = nullptr;
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
  const float* x = nullptr;
  const float* y = nullptr;  // null: no residual sum
  ImageRows gate = {};       // null data: gate of 1
  float* r = nullptr;        // written where y is given

  float* h = nullptr;  // null: no norm
  float eps = 0;
  ImageRows scale = {};
  float scale_offset = 0;  // 1 for a modulation by (1 + scale)
  ImageRows shift = {};
  float* mean = nullptr;  // [images, tokens], with h; null when no backward follows
  float* rstd = nullptr;  // 1 / sqrt(var + eps), likewise
};

struct NormBwdArgs {
  NormShape shape;
  const float* dh = nullptr;     // null: h had no consumer
  const float* dr_in = nullptr;  // gradient of r from elsewhere; null: none
  float* dx = nullptr;           // overwritten

  // With dh: what forward read and saved.
  const float* r = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  ImageRows scale = {};
  float scale_offset = 0;
  ImageRowsGrad dscale = {};
  ImageRowsGrad dshift = {};

  // With a residual sum; y only where dgate is wanted.
  ImageRows gate = {};
  const float* y = nullptr;
  float* dy = nullptr;  // overwritten; null: not wanted
  ImageRowsGrad dgate = {};
};

namespace cpu {

void NormFwd(const NormFwdArgs& args, CpuContext& context);
void NormBwd(const NormBwdArgs& args, CpuContext& context);

}  // namespace cpu
}  // namespace shardit
