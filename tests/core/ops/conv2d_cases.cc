// Convolution. Legend: N images, H W pixels, C channels, O output channels.
#include <algorithm>

#include "core/ops/conv2d.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

struct Conv2dSizes {
  int64_t images, height, width, channels, out;
  Conv2dWindow window;
};

// The definition. x [N, H, W, C], weight [O, kernel_h, kernel_w, C], bias [O] or null.
Array NaiveConv2d(const Array& x, const Array& weight, const Array* bias, const Conv2dWindow& window) {
  const auto& [kernel_h, kernel_w, stride, pad_h, pad_w] = window;
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  Array y({x.dim(0), (height + 2 * pad_h - kernel_h) / stride + 1, (width + 2 * pad_w - kernel_w) / stride + 1,
           weight.dim(0)});
  double* to = y.values.data();
  for (int64_t n = 0; n < y.dim(0); ++n) {
    for (int64_t i = 0; i < y.dim(1); ++i) {
      for (int64_t j = 0; j < y.dim(2); ++j) {
        for (int64_t o = 0; o < y.dim(3); ++o, ++to) {
          *to = bias == nullptr ? 0 : (*bias)(o);
          for (int64_t u = std::max<int64_t>(0, pad_h - i * stride); u < kernel_h; ++u) {
            for (int64_t v = std::max<int64_t>(0, pad_w - j * stride); v < kernel_w; ++v) {
              const int64_t row = i * stride + u - pad_h, column = j * stride + v - pad_w;
              if (row >= height || column >= width) continue;
              const double* a = &x.values[static_cast<size_t>(((n * height + row) * width + column) * channels)];
              const double* b = &weight.values[static_cast<size_t>(((o * kernel_h + u) * kernel_w + v) * channels)];
              for (int64_t c = 0; c < channels; ++c) *to += a[c] * b[c];
            }
          }
        }
      }
    }
  }
  return y;
}

OpCase Conv2dCase(const Conv2dSizes& sizes, bool has_bias = false) {
  const auto& [n, h, w, c, o, window] = sizes;
  std::vector<OpInput> inputs{{.shape = {n, h, w, c}},
                              {.shape = {o, window.kernel_h, window.kernel_w, c}, .role = OpRole::kParameter}};
  if (has_bias) inputs.push_back({.shape = {o}, .role = OpRole::kParameter});
  return {.name = CaseName("conv2d",
                           {n, h, w, c, o, window.kernel_h, window.kernel_w, window.stride, window.pad_h, window.pad_w},
                           has_bias ? "bias" : ""),
          .inputs = inputs,
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Conv2d(tape, in[0], in[1], has_bias ? &in[2] : nullptr, window)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveConv2d(in[0], in[1], has_bias ? &in[2] : nullptr, window)};
          },
          .inputs_independent = !has_bias,
          .products = true};
}

constexpr Conv2dWindow Square(int64_t kernel, int64_t stride, int64_t pad) {
  return {.kernel_h = kernel, .kernel_w = kernel, .stride = stride, .pad_h = pad, .pad_w = pad};
}

}  // namespace

std::vector<OpCase> Conv2dCases() {
  return {
      Conv2dCase({1, 1, 1, 1, 1, Square(1, 1, 0)}),
      Conv2dCase({3, 5, 7, 4, 6, Square(1, 1, 0)}, true),
      Conv2dCase({2, 6, 5, 3, 5, Square(1, 2, 0)}),
      Conv2dCase({1, 3, 4, 8, 5, Square(1, 1, 1)}),  // padding alone keeps it from being a product
      Conv2dCase({2, 7, 6, 3, 5, Square(3, 1, 1)}, true),
      Conv2dCase({2, 9, 8, 1, 4, Square(3, 2, 1)}, true),
      Conv2dCase({2, 8, 9, 5, 7, Square(3, 2, 0)}),  // the last line is in no window
      Conv2dCase({2, 4, 9, 6, 3, {.kernel_h = 1, .kernel_w = 7, .pad_w = 3}}),
      Conv2dCase({2, 9, 4, 6, 3, {.kernel_h = 7, .kernel_w = 1, .pad_h = 3}}),
      Conv2dCase({1, 6, 8, 3, 4, {.kernel_h = 2, .kernel_w = 3, .stride = 2, .pad_h = 0, .pad_w = 2}}, true),
      Conv2dCase({2, 5, 5, 8, 16, Square(5, 1, 2)}),
      Conv2dCase({1, 3, 2, 2, 2, Square(5, 1, 2)}),    // the window is larger than the image
      Conv2dCase({2, 7, 8, 2, 3, Square(2, 3, 0)}),    // pixels in no window
      Conv2dCase({1, 2, 3, 17, 33, Square(3, 1, 4)}),  // windows of nothing but padding
      Conv2dCase({3, 11, 13, 16, 40, Square(3, 1, 1)}),
      Timed(Conv2dCase({64, 32, 32, 1, 32, Square(3, 1, 1)}, true)),
      Timed(Conv2dCase({64, 32, 32, 32, 64, Square(3, 1, 1)}, true)),
      Timed(Conv2dCase({64, 16, 16, 64, 128, Square(3, 2, 1)}, true)),
      Large(Conv2dCase({16, 35, 35, 64, 96, Square(3, 1, 1)})),
      Large(Conv2dCase({16, 17, 17, 160, 192, {.kernel_h = 1, .kernel_w = 7, .pad_w = 3}})),
      Large(Conv2dCase({4, 147, 147, 32, 64, Square(3, 1, 1)})),  // several tiles on a GPU
      Large(Conv2dCase({16, 35, 35, 288, 384, Square(3, 2, 0)})),
  };
}

std::vector<OpCase> Conv2dTileCases() {
  return {
      Conv2dCase({5, 64, 101, 2, 2, Square(3, 1, 1)}, true),
      Conv2dCase({1, 501, 260, 3, 1, Square(3, 2, 1)}),
      Conv2dCase({2, 203, 301, 1, 1, Square(3, 1, 0)}),
  };
}

}  // namespace shardit
