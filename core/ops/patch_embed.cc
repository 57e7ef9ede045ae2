#include "core/ops/patch_embed.h"

#include "core/cuda/nvtx.h"

namespace shardit {

Tensor Patchify(RankContext& context, const Tensor& x_NCHW, int64_t patch, DType dtype) {
  const NvtxRange range("patchify");
  const Tensor& x = x_NCHW;
  CHECK(x.ndim() == 4 && x.is_dense() && patch >= 1 && x.dim(2) % patch == 0 && x.dim(3) % patch == 0)
      << "[patchify] x " << x.shape() << ", patch " << patch;
  const PatchifyArgs sizes{
      .images = x.dim(0), .channels = x.dim(1), .grid_h = x.dim(2) / patch, .grid_w = x.dim(3) / patch, .patch = patch};
  Tensor out = Tensor::Empty(context.allocator(),
                             {sizes.images, sizes.grid_h * sizes.grid_w, sizes.channels * patch * patch}, dtype);
  PatchifyArgs args = sizes;
  args.x = x.data();
  args.out = out.ref();
  context.on_cuda() ? cuda::Patchify(args, context.cuda()) : cpu::Patchify(args, context.cpu());
  return out;
}

}  // namespace shardit
