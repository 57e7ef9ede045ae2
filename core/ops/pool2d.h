// Pooling over windows of images, each channel for itself.
//
//   kMax            y = the largest element of the window (LeCun et al., 1998, subsample by means; the maximum is
//                   Riesenhuber and Poggio, 1999)
//   kAverage        y = sum over the window / (kernel_h kernel_w): padding counts as zeros
//   kAverageInside  y = sum over the window / the elements of it that lie inside the image
//   x [N, H, W, C], y [N, PooledSize(H), PooledSize(W), C]: dense, fp32, channels innermost.
//
// Padding never is a maximum. Of equal maxima the first one in row-major order gets the gradient, as in PyTorch; NaN is
// larger than everything. Sums are fp32, along the rows of a window first and then over its rows: the same bits on both
// backends and for every number of threads. Backward gathers: an element of dx adds up the windows that hold it, in
// row-major order. Elements in no window have gradient 0.
//
// Saved: of kMax the positions of the maxima, 4 bytes an element of y; of averages nothing.
// Failure: a window that does not fit into the padded image, or padding as large as the kernel, is a CHECK.
#pragma once

#include "core/autograd/tape.h"
#include "core/base/host_device.h"

namespace shardit {

enum class PoolKind { kMax, kAverage, kAverageInside };

struct PoolWindow {
  int64_t kernel_h = 1;
  int64_t kernel_w = 1;
  int64_t stride = 1;
  int64_t pad_h = 0;  // rows above, and as many below
  int64_t pad_w = 0;
};

// Windows along a side of `size` pixels.
constexpr int64_t PooledSize(int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  return (size + 2 * pad - kernel) / stride + 1;
}

Var Pool2d(Tape& tape, const Var& x_NHWC, PoolKind kind, const PoolWindow& window);

// The mean over all pixels: [N, C].
Var GlobalAveragePool(Tape& tape, const Var& x_NHWC);

// Half-open; empty where end <= begin.
struct PoolRange {
  int begin = 0;
  int end = 0;
  SHARDIT_HOST_DEVICE int size() const { return end - begin; }
};

// One side of the images.
struct PoolSide {
  int kernel = 1;
  int stride = 1;
  int pad = 0;
  int pixels = 0;   // of x
  int windows = 0;  // pixels of y

  // The pixels of a window that lie inside the image: one or more.
  SHARDIT_HOST_DEVICE PoolRange PixelsOf(int window) const {
    const int begin = window * stride - pad, end = begin + kernel;
    return {begin > 0 ? begin : 0, end < pixels ? end : pixels};
  }
  // The windows that hold a pixel.
  SHARDIT_HOST_DEVICE PoolRange WindowsOver(int pixel) const {
    const int last = (pixel + pad) / stride, before = pixel + pad - kernel;  // `before` ends the last one that is over
    return {before < 0 ? 0 : before / stride + 1, last < windows ? last + 1 : windows};
  }
};

struct PoolShape {
  PoolKind kind = PoolKind::kMax;
  PoolSide rows;
  PoolSide columns;
  int64_t images = 0;
  int64_t channels = 0;

  // What the sum of a window is divided by.
  SHARDIT_HOST_DEVICE float Divisor(PoolRange in_rows, PoolRange in_columns) const {
    return static_cast<float>(kind == PoolKind::kAverage ? rows.kernel * columns.kernel
                                                         : in_rows.size() * in_columns.size());
  }
};

struct Pool2dFwdArgs {
  PoolShape shape;
  const float* x = nullptr;
  float* y = nullptr;
  // Where each maximum lies in its image: row * width + column. As y; null: not wanted. Not read by averages.
  int32_t* winners = nullptr;
};

struct Pool2dBwdArgs {
  PoolShape shape;
  const float* dy = nullptr;
  const int32_t* winners = nullptr;  // kMax only
  float* dx = nullptr;
  bool accumulate = false;
};

namespace cpu {

void Pool2dFwd(const Pool2dFwdArgs& args, CpuContext& context);
void Pool2dBwd(const Pool2dBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void Pool2dFwd(const Pool2dFwdArgs& args, CudaContext& context);
void Pool2dBwd(const Pool2dBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void Pool2dFwd(const Pool2dFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::Pool2dFwd(args, context.cuda()) : cpu::Pool2dFwd(args, context.cpu());
}
inline void Pool2dBwd(const Pool2dBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::Pool2dBwd(args, context.cuda()) : cpu::Pool2dBwd(args, context.cpu());
}

}  // namespace shardit
