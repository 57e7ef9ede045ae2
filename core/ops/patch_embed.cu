#include "core/cuda/pack.cuh"
#include "core/ops/patch_embed.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

// A block writes the tokens of one row of patches of one image.
template <class T>
__global__ void PatchifyKernel(const float* __restrict__ x, T* __restrict__ out, int channels, int grid_h, int grid_w,
                               int patch) {
  const int64_t image = blockIdx.x / grid_h;
  const int grid_row = static_cast<int>(blockIdx.x - image * grid_h);
  const int width = grid_w * patch, height = grid_h * patch, row_size = channels * patch * patch;
  T* const rows = out + int64_t{blockIdx.x} * grid_w * row_size;
  for (int i = threadIdx.x; i < grid_w * row_size; i += kThreads) {
    const int token = i / row_size, in_token = i - token * row_size;
    const int line = in_token / patch, column = in_token - line * patch;  // line: (channel, row in patch)
    const int channel = line / patch, row = line - channel * patch;
    const int64_t from = (image * channels + channel) * height + grid_row * patch + row;
    rows[i] = FromFloat<T>(x[from * width + token * patch + column]);
  }
}

}  // namespace

void Patchify(const PatchifyArgs& args, CudaContext& context) {
  WithType(args.out.dtype(), [&](auto element) {
    using T = decltype(element);
    Launch(PatchifyKernel<T>, static_cast<unsigned>(args.images * args.grid_h), kThreads, 0, context.stream, args.x,
           static_cast<T*>(args.out.raw()), static_cast<int>(args.channels), static_cast<int>(args.grid_h),
           static_cast<int>(args.grid_w), static_cast<int>(args.patch));
  });
}

}  // namespace shardit::cuda
