#include "core/cuda/pack.cuh"
#include "core/ops/unpatchify.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

// UnpatchifyShape with what follows from it.
struct Sizes {
  int channels;
  int patch;
  int grid_h;
  int grid_w;

  explicit Sizes(const UnpatchifyShape& shape)
      : channels(static_cast<int>(shape.channels)),
        patch(static_cast<int>(shape.patch)),
        grid_h(static_cast<int>(shape.grid_h)),
        grid_w(static_cast<int>(shape.grid_w)) {}
  __device__ __forceinline__ int row_size() const { return patch * patch * channels; }
  // Elements of one row of patches of one image: a block's share.
  __device__ __forceinline__ int share() const { return grid_w * row_size(); }

  // Where in y lies what the block has at (channel, row and column in the image's row of patches).
  __device__ __forceinline__ int64_t InY(int channel, int row, int column) const {
    const int64_t image = blockIdx.x / grid_h, grid_row = blockIdx.x - image * grid_h;
    return (((image * channels + channel) * grid_h + grid_row) * patch + row) * grid_w * patch + column;
  }
};

// Walks the share in the order of y.
template <class T>
__global__ void FwdKernel(Sizes sizes, const T* __restrict__ x, float* __restrict__ y) {
  const int width = sizes.grid_w * sizes.patch;
  const T* const rows = x + int64_t{blockIdx.x} * sizes.share();
  for (int i = threadIdx.x; i < sizes.share(); i += kThreads) {
    const int line = i / width, column = i - line * width;
    const int channel = line / sizes.patch, row = line - channel * sizes.patch;
    const int token = column / sizes.patch, in_patch = column - token * sizes.patch;
    const int from = token * sizes.row_size() + (row * sizes.patch + in_patch) * sizes.channels + channel;
    y[sizes.InY(channel, row, column)] = ToFloat(rows[from]);
  }
}

// Walks the share in the order of dx.
template <class T>
__global__ void BwdKernel(Sizes sizes, const float* __restrict__ dy, T* __restrict__ dx, bool accumulate) {
  T* const rows = dx + int64_t{blockIdx.x} * sizes.share();
  for (int i = threadIdx.x; i < sizes.share(); i += kThreads) {
    const int place = i / sizes.channels, channel = i - place * sizes.channels;  // place: (token, row, column in patch)
    const int token_row = place / sizes.patch, in_patch = place - token_row * sizes.patch;
    const int token = token_row / sizes.patch, row = token_row - token * sizes.patch;
    const float value = dy[sizes.InY(channel, row, token * sizes.patch + in_patch)];
    rows[i] = FromFloat<T>(accumulate ? ToFloat(rows[i]) + value : value);
  }
}

unsigned BlocksOf(const UnpatchifyShape& shape) { return static_cast<unsigned>(shape.images * shape.grid_h); }

}  // namespace

void UnpatchifyFwd(const UnpatchifyFwdArgs& args, CudaContext& context) {
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    Launch(FwdKernel<T>, BlocksOf(args.shape), kThreads, 0, context.stream, Sizes(args.shape),
           static_cast<const T*>(args.x.raw()), args.y);
  });
}

void UnpatchifyBwd(const UnpatchifyBwdArgs& args, CudaContext& context) {
  WithType(args.dx.dtype(), [&](auto element) {
    using T = decltype(element);
    Launch(BwdKernel<T>, BlocksOf(args.shape), kThreads, 0, context.stream, Sizes(args.shape), args.dy,
           static_cast<T*>(args.dx.raw()), args.accumulate);
  });
}

}  // namespace shardit::cuda
