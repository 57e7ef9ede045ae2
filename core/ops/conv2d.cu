#include <algorithm>
#include <limits>

#include "core/cuda/pack.cuh"
#include "core/ops/conv2d.h"

namespace shardit::cuda {
namespace {

// Sizes of one launch, in 32 bits: a division of 64 takes several times as long. Offsets into x and dx are 64 bits.
struct Sizes {
  int kernel_h, kernel_w, stride, pad_h, pad_w;
  int height, width, channels;
  int out_height, out_width;
};

// `elements`: what the launch counts.
Sizes SizesOf(const Conv2dShape& shape, int64_t elements) {
  CHECK_LE(elements, std::numeric_limits<int>::max()) << "[conv2d] elements of a tile";
  const auto of = [](int64_t size) { return static_cast<int>(size); };
  const auto& [kernel_h, kernel_w, stride, pad_h, pad_w] = shape.window;
  return {of(kernel_h),    of(kernel_w),       of(stride),           of(pad_h),          of(pad_w), of(shape.height),
          of(shape.width), of(shape.channels), of(shape.out_height), of(shape.out_width)};
}

template <class T>
struct Im2ColBody {
  Sizes sizes;
  const T* x;
  T* columns;
  int64_t first_pixel;

  // Element i of the tile: (pixel, line of the window, pixel of that line, channel).
  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const int in_tile = static_cast<int>(i);
    const int tap = in_tile / sizes.channels, c = in_tile - tap * sizes.channels;
    const int kernel = sizes.kernel_h * sizes.kernel_w;
    const int in_kernel = tap % kernel, u = in_kernel / sizes.kernel_w, v = in_kernel - u * sizes.kernel_w;
    const int64_t pixel = first_pixel + tap / kernel, line = pixel / sizes.out_width;
    const int64_t image = line / sizes.out_height;
    const int y = static_cast<int>(line - image * sizes.out_height) * sizes.stride + u - sizes.pad_h;
    const int x_at = static_cast<int>(pixel - line * sizes.out_width) * sizes.stride + v - sizes.pad_w;
    if (y >= 0 && y < sizes.height && x_at >= 0 && x_at < sizes.width) {
      const int64_t from = ((image * sizes.height + y) * sizes.width + x_at) * sizes.channels + c;
      StorePack(columns + i, LoadPack<kCount>(x + from));
    } else {
      const float zeros[kCount] = {};
      StorePack(columns + i, zeros);
    }
  }
};

template <class T>
struct Col2ImBody {
  Sizes sizes;
  const float* columns;
  T* dx;
  int64_t first_line;
  int64_t first_out_line;
  bool accumulate;

  // Element i of the tile of dx: (pixel of the lines, channel).
  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const int pixel = static_cast<int>(i) / sizes.channels, c = static_cast<int>(i) - pixel * sizes.channels;
    const int in_lines = pixel / sizes.width;
    const int64_t line = first_line + in_lines, image = line / sizes.height;
    const int y = static_cast<int>(line - image * sizes.height) + sizes.pad_h;
    const int x = pixel - in_lines * sizes.width + sizes.pad_w;
    const int first_line_of_image = static_cast<int>(image * sizes.out_height - first_out_line);
    const int stride = sizes.stride;
    float sum[kCount] = {};
    for (int u = y % stride; u < sizes.kernel_h && u <= y; u += stride) {
      const int out_y = (y - u) / stride;
      if (out_y >= sizes.out_height) continue;
      for (int v = x % stride; v < sizes.kernel_w && v <= x; v += stride) {
        const int out_x = (x - v) / stride;
        if (out_x >= sizes.out_width) continue;
        const int64_t window = int64_t{first_line_of_image + out_y} * sizes.out_width + out_x;
        const int64_t tap = (window * sizes.kernel_h + u) * sizes.kernel_w + v;
        const Pack<float, kCount> grad = LoadPack<kCount>(columns + tap * sizes.channels + c);
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[k] += grad[k];
      }
    }
    T* const to = dx + first_line * sizes.width * sizes.channels + i;
    if (accumulate) {  // last: the same bits as adding a finished gradient
      const Pack<T, kCount> old = LoadPack<kCount>(static_cast<const T*>(to));
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += old[k];
    }
    StorePack(to, sum);
  }
};

}  // namespace

void Im2Col(const Im2ColArgs& args, CudaContext& context) {
  const int64_t channels = args.shape.channels, count = args.pixels * args.shape.window_elements();
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Im2ColBody<T> body{.sizes = SizesOf(args.shape, count),
                             .x = static_cast<const T*>(args.x.raw()),
                             .columns = static_cast<T*>(args.columns.raw()),
                             .first_pixel = args.first_pixel};
    constexpr int kPack = kPackSize<T>;
    // No pack reaches into the next pixel.
    const bool fit = PacksFit(args.x, kPack, channels) && PacksFit(args.columns, kPack, channels);
    ForPacks<kPack>(body, fit, count, context.stream);
  });
}

void Col2Im(const Col2ImArgs& args, CudaContext& context) {
  const int64_t channels = args.shape.channels, count = args.lines * args.shape.width * channels;
  WithType(args.dx.dtype(), [&](auto element) {
    using T = decltype(element);
    const Col2ImBody<T> body{.sizes = SizesOf(args.shape, count),
                             .columns = args.columns,
                             .dx = static_cast<T*>(args.dx.raw()),
                             .first_line = args.first_line,
                             .first_out_line = args.first_out_line,
                             .accumulate = args.accumulate};
    constexpr int kPack = kPackSize<float>;
    const bool fit = PacksFit(args.columns, kPack, channels) && PacksFit(args.dx, kPack, channels);
    ForPacks<kPack>(body, fit, count, context.stream);
  });
}

}  // namespace shardit::cuda
