#include "core/ops/resize.h"

#include <limits>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

ResizeSide SideOf(ResizeMode mode, int64_t in, int64_t out) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  CHECK(in >= 1 && out >= 1 && in <= kMost && out <= kMost) << "[resize] from " << in << " to " << out << " pixels";
  return {.mode = mode,
          .in = static_cast<int>(in),
          .out = static_cast<int>(out),
          .ratio = static_cast<float>(in) / static_cast<float>(out)};
}

}  // namespace

Tensor ResizeBilinear(RankContext& context, const Tensor& x_NHWC, int64_t height, int64_t width, ResizeMode mode,
                      float scale, float shift) {
  const NvtxRange range("resize");
  const Tensor& x = x_NHWC;
  CHECK(x.ndim() == 4 && x.is_dense()) << "[resize] x " << x.shape() << " with strides " << x.strides();
  const ResizeSide rows = SideOf(mode, x.dim(1), height), columns = SideOf(mode, x.dim(2), width);
  Tensor y = Tensor::Empty(context.allocator(), {x.dim(0), height, width, x.dim(3)});
  const ResizeBilinearArgs args{.rows = rows,
                                .columns = columns,
                                .images = x.dim(0),
                                .channels = x.dim(3),
                                .scale = scale,
                                .shift = shift,
                                .x = x.data(),
                                .y = y.data()};
  context.on_cuda() ? cuda::ResizeBilinear(args, context.cuda()) : cpu::ResizeBilinear(args, context.cpu());
  return y;
}

}  // namespace shardit
