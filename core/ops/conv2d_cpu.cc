#include "core/ops/conv2d.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/conv2d_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cstring>
#include <vector>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The sums of the taps' channels, to dx [channels].
template <class D>
HWY_INLINE void SumTaps(D d, const std::vector<const float*>& taps, int64_t c, bool accumulate, float* dx) {
  auto sum = hn::Zero(d);
  for (const float* tap : taps) sum = hn::Add(sum, hn::LoadU(d, tap + c));
  // Last: the same bits as adding a finished gradient.
  if (accumulate) sum = hn::Add(hn::LoadU(d, dx + c), sum);
  hn::StoreU(sum, d, dx + c);
}

// Pixels [begin, end) of the lines.
void Col2ImRange(const Col2ImArgs& args, int64_t begin, int64_t end) {
  const Conv2dShape& shape = args.shape;
  const auto& [kernel_h, kernel_w, stride, pad_h, pad_w] = shape.window;
  const int64_t channels = shape.channels, window = shape.window_elements();
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> single;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  std::vector<const float*> taps;  // where the windows that hold the pixel have its gradients
  taps.reserve(static_cast<size_t>(kernel_h * kernel_w));
  for (int64_t i = begin; i < end; ++i) {
    const int64_t line = args.first_line + i / shape.width;
    const int64_t image = line / shape.height, y = line % shape.height + pad_h, x = i % shape.width + pad_w;
    taps.clear();
    for (int64_t u = y % stride; u < kernel_h && u <= y; u += stride) {
      const int64_t out_y = (y - u) / stride;
      if (out_y >= shape.out_height) continue;
      const int64_t out_line = image * shape.out_height + out_y - args.first_out_line;
      for (int64_t v = x % stride; v < kernel_w && v <= x; v += stride) {
        const int64_t out_x = (x - v) / stride;
        if (out_x >= shape.out_width) continue;
        taps.push_back(args.columns + (out_line * shape.out_width + out_x) * window + (u * kernel_w + v) * channels);
      }
    }
    float* dx = args.dx + (args.first_line * shape.width + i) * channels;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) SumTaps(d, taps, c, args.accumulate, dx);
    for (; c < channels; ++c) SumTaps(single, taps, c, args.accumulate, dx);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(Col2ImRange);

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves

// Lays out one window, whose first pixel, outside of the image where there is padding, is (y, x) of an image that
// begins at `image`.
void CopyWindow(const Conv2dShape& shape, const float* image, int64_t y, int64_t x, float* to) {
  const int64_t kernel_w = shape.window.kernel_w, channels = shape.channels;
  // A window's line is one run of memory, but for what the padding gives on its two sides.
  const int64_t left = std::clamp<int64_t>(-x, 0, kernel_w);
  const int64_t right = std::clamp<int64_t>(x + kernel_w - shape.width, 0, kernel_w - left);
  const int64_t inside = kernel_w - left - right;
  for (int64_t u = 0; u < shape.window.kernel_h; ++u, to += kernel_w * channels) {
    if (y + u < 0 || y + u >= shape.height) {
      std::fill_n(to, kernel_w * channels, 0.0f);
      continue;
    }
    std::fill_n(to, left * channels, 0.0f);
    std::memcpy(to + left * channels, image + ((y + u) * shape.width + x + left) * channels,
                static_cast<size_t>(inside * channels) * sizeof(float));
    std::fill_n(to + (left + inside) * channels, right * channels, 0.0f);
  }
}

}  // namespace

void Im2Col(const Im2ColArgs& args, CpuContext& context) {
  const Conv2dShape& shape = args.shape;
  const auto& [kernel_h, kernel_w, stride, pad_h, pad_w] = shape.window;
  const int64_t window = shape.window_elements();
  const double read = static_cast<double>(args.pixels * stride * stride * shape.channels);
  if (context.Planned({"im2col", 0, 4.0 * (read + static_cast<double>(args.pixels * window))})) return;
  context.pool.ParallelFor(args.pixels, kGrain / window, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pixel = args.first_pixel + i, line = pixel / shape.out_width;
      const int64_t image = line / shape.out_height;
      CopyWindow(shape, args.x + image * shape.height * shape.width * shape.channels,
                 line % shape.out_height * stride - pad_h, pixel % shape.out_width * stride - pad_w,
                 args.columns + i * window);
    }
  });
}

void Col2Im(const Col2ImArgs& args, CpuContext& context) {
  const Conv2dShape& shape = args.shape;
  const int64_t pixels = args.lines * shape.width, channels = shape.channels;
  const double grads = static_cast<double>(pixels * shape.window_elements()) /
                       static_cast<double>(shape.window.stride * shape.window.stride);
  const double passes = args.accumulate ? 2 : 1;  // over dx
  if (context.Planned({"col2im", 0, 4.0 * (grads + passes * static_cast<double>(pixels * channels))})) return;
  context.pool.ParallelFor(pixels, kGrain / shape.window_elements(), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(Col2ImRange)(args, begin, end);
  });
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
