// Patchify: cuts images into the rows that the patch convolution's weight multiplies (a p x p convolution of stride p
// is a matrix product over them; DiT, arXiv 2212.09748, section 3.2 "Patchify").
//
//   x [N, C, H, W] dense, H and W multiples of p, else a CHECK; out [N, T, C p p], T = (H / p)(W / p), tokens
//   row-major. Columns in the order (channel, row in patch, column in patch): a weight [D, C, p, p] seen as [D, C p p]
//   fits.
// x is fp32; out is of type `dtype`. No gradient: the image is data.
#pragma once

#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

Tensor Patchify(RankContext& context, const Tensor& x_NCHW, int64_t patch, DType dtype = DType::kF32);

struct PatchifyArgs {
  const float* x = nullptr;
  Elements out;
  int64_t images = 0;
  int64_t channels = 0;
  int64_t grid_h = 0;  // patches
  int64_t grid_w = 0;
  int64_t patch = 0;
};

namespace cpu {

void Patchify(const PatchifyArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void Patchify(const PatchifyArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
