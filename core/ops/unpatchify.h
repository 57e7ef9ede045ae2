// Unpatchify: puts the final layer's rows together to images (DiT, arXiv 2212.09748, section 3.2 "Transformer
// decoder").
//
//   x [N, T, p p C] dense, T = grid_h grid_w tokens row-major, columns in the order (row in patch, column in patch,
//   channel); y [N, C, grid_h p, grid_w p]. A permutation: backward is its inverse. y and dy are fp32,
//   x and dx of one type. Saved: nothing.
// Note that the column order differs from Patchify's (patch_embed.h), as the ecosystem's checkpoints have it.
// Failure: shapes that do not fit are a CHECK.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

Var Unpatchify(Tape& tape, const Var& x_NTE, int64_t channels, int64_t patch, int64_t grid_h, int64_t grid_w);

struct UnpatchifyShape {
  int64_t images = 0;
  int64_t channels = 0;
  int64_t patch = 0;
  int64_t grid_h = 0;  // patches
  int64_t grid_w = 0;
};

struct UnpatchifyFwdArgs {
  UnpatchifyShape shape;
  ConstElements x;
  float* y = nullptr;
};

struct UnpatchifyBwdArgs {
  UnpatchifyShape shape;
  const float* dy = nullptr;
  Elements dx;
  bool accumulate = false;
};

namespace cpu {

void UnpatchifyFwd(const UnpatchifyFwdArgs& args, CpuContext& context);
void UnpatchifyBwd(const UnpatchifyBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void UnpatchifyFwd(const UnpatchifyFwdArgs& args, CudaContext& context);
void UnpatchifyBwd(const UnpatchifyBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void UnpatchifyFwd(const UnpatchifyFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::UnpatchifyFwd(args, context.cuda()) : cpu::UnpatchifyFwd(args, context.cpu());
}
inline void UnpatchifyBwd(const UnpatchifyBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::UnpatchifyBwd(args, context.cuda()) : cpu::UnpatchifyBwd(args, context.cpu());
}

}  // namespace shardit
