// Two-dimensional convolution of images whose channels lie innermost, as matrix products.
//
//   x [N, H, W, C], weight [O, kernel_h, kernel_w, C], bias [O] or none, y [N, H', W', O]; all dense and of one type;
//   H' = (H + 2 pad_h - kernel_h) / stride + 1, rounded down; W' likewise. Padding is zeros.
//   y[n, i, j, o] = bias[o] + sum over (u, v, c) of x[n, i stride + u - pad_h, j stride + v - pad_w, c] weight[o, u, v,
//   c]
//
// "im2col" (Chellapilla, Puri and Simard, 2006; Caffe, arXiv 1408.5093): the windows of the output's pixels are laid
// out as the rows of a matrix [pixels, kernel_h kernel_w C], so that y is its product with the weight, already in
// place. A 1 x 1 window of stride 1 without padding is the image itself: nothing is copied. The matrix is made a tile
// at a time: about 32 MiB at most, whatever the batch; windows of more than 128 Ki elements need more.
//   dx: the products dy weight of the windows, each pixel gathering its own from those that hold it. Skipped where x
//       wants no gradient.
//   dweight (+)= dy^T windows, which are laid out again; dbias (+)= sums of dy over pixels. Deferrable. A bias that
//       wants a gradient while its weight does not is a CHECK.
//
// Numbers: sums in fp32 (as in core/ops/gemm.h), rounded once; gradients of weight and bias are fp32. No atomics: the
// same bits whatever the number of threads. On the CPU an image's y and dx do not depend on the batch around it, to the
// bit; on a GPU the product's algorithm may change with the batch's size.
// Saved: x. Failure: shapes or types that do not fit, an empty x, a window larger than the padded image are CHECKs.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

// Sizes in pixels.
struct Conv2dWindow {
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride = 1;            // in both directions
  int64_t pad_h = 0, pad_w = 0;  // zeros on either side
};

// `bias_O` may be null.
Var Conv2d(Tape& tape, const Var& x_NHWC, const Var& weight_OHWC, const Var* bias_O, const Conv2dWindow& window);

// What the kernels know of a convolution. A line is a row of pixels of an image; lines and pixels are numbered through
// the batch.
struct Conv2dShape {
  Conv2dWindow window;
  int64_t images = 0, height = 0, width = 0, channels = 0;  // of x
  int64_t out_height = 0, out_width = 0;

  int64_t window_elements() const { return window.kernel_h * window.kernel_w * channels; }
  int64_t out_pixels() const { return images * out_height * out_width; }
};

// Lays out the windows of output pixels [first_pixel, first_pixel + pixels): columns [pixels, window_elements()], of
// x's type.
struct Im2ColArgs {
  Conv2dShape shape;
  ConstElements x;
  Elements columns;
  int64_t first_pixel = 0;
  int64_t pixels = 0;
};

// Lines [first_line, first_line + lines) of dx from `columns`, fp32, the gradients of the windows of output lines
// [first_out_line, ...), which include all that the lines need. The taps of a pixel are added in the window's order,
// then to what dx holds where `accumulate`.
struct Col2ImArgs {
  Conv2dShape shape;
  const float* columns = nullptr;
  int64_t first_out_line = 0;
  Elements dx;  // all of it
  bool accumulate = false;
  int64_t first_line = 0;
  int64_t lines = 0;
};

namespace cpu {

void Im2Col(const Im2ColArgs& args, CpuContext& context);
void Col2Im(const Col2ImArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void Im2Col(const Im2ColArgs& args, CudaContext& context);
void Col2Im(const Col2ImArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void Im2Col(const Im2ColArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::Im2Col(args, context.cuda()) : cpu::Im2Col(args, context.cpu());
}
inline void Col2Im(const Col2ImArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::Col2Im(args, context.cuda()) : cpu::Col2Im(args, context.cpu());
}

}  // namespace shardit
