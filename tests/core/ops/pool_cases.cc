// Pooling. Legend: N images, H and W sides, C channels.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/ops/pool2d.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

// Wide, so that no two elements are as near to each other as the differences that gradients are checked with: there a
// maximum has no derivative.
constexpr double kSpread = 1000;

// The value of one window, from the definition: padding is what lies outside the image.
double WindowValue(const Array& x, PoolKind kind, const PoolWindow& window, int64_t n, int64_t i, int64_t j,
                   int64_t c) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  int64_t inside = 0;
  for (int64_t row = i * window.stride - window.pad_h; row < i * window.stride - window.pad_h + window.kernel_h;
       ++row) {
    for (int64_t k = 0; k < window.kernel_w; ++k) {
      const int64_t column = j * window.stride - window.pad_w + k;
      if (row < 0 || row >= x.dim(1) || column < 0 || column >= x.dim(2)) continue;
      largest = std::max(largest, x(n, row, column, c));
      sum += x(n, row, column, c);
      ++inside;
    }
  }
  if (kind == PoolKind::kMax) return largest;
  return sum / static_cast<double>(kind == PoolKind::kAverage ? window.kernel_h * window.kernel_w : inside);
}

Array NaivePool(const Array& x, PoolKind kind, const PoolWindow& window) {
  const auto size = [&](int64_t side, int64_t kernel, int64_t pad) {
    return static_cast<int64_t>(std::floor(static_cast<double>(side + 2 * pad - kernel) / window.stride)) + 1;
  };
  Array y({x.dim(0), size(x.dim(1), window.kernel_h, window.pad_h), size(x.dim(2), window.kernel_w, window.pad_w),
           x.dim(3)});
  for (int64_t n = 0; n < y.dim(0); ++n) {
    for (int64_t i = 0; i < y.dim(1); ++i) {
      for (int64_t j = 0; j < y.dim(2); ++j) {
        for (int64_t c = 0; c < y.dim(3); ++c) y(n, i, j, c) = WindowValue(x, kind, window, n, i, j, c);
      }
    }
  }
  return y;
}

OpCase PoolCase(Shape x, PoolKind kind, const PoolWindow& window) {
  const std::string name =
      absl::StrCat(kind == PoolKind::kMax       ? "max_pool_"
                   : kind == PoolKind::kAverage ? "average_pool_"
                                                : "average_inside_pool_",
                   x[0], "x", x[1], "x", x[2], "x", x[3], "_kernel_", window.kernel_h, "x", window.kernel_w, "_stride_",
                   window.stride, "_pad_", window.pad_h, "x", window.pad_w);
  return {.name = name,
          .inputs = {{.shape = x, .spread = kSpread, .role = OpRole::kData}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Pool2d(tape, in[0], kind, window)};
          },
          .naive = [=](const Arrays& in) -> Arrays { return {NaivePool(in[0], kind, window)}; }};
}

OpCase GlobalCase(Shape x) {
  return {.name = CaseName("global_average_pool", {x[0], x[1], x[2], x[3]}),
          .inputs = {{.shape = x, .role = OpRole::kData}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {GlobalAveragePool(tape, in[0])};
          },
          .naive = [=](const Arrays& in) -> Arrays {
            Array y({x[0], x[3]});
            for (int64_t n = 0; n < x[0]; ++n) {
              for (int64_t i = 0; i < x[1] * x[2]; ++i) {
                for (int64_t c = 0; c < x[3]; ++c) {
                  y(n, c) += in[0](n, i / x[2], i % x[2], c) / static_cast<double>(x[1] * x[2]);
                }
              }
            }
            return {y};
          }};
}

struct Window {
  Shape x;
  PoolWindow window;
};
// Windows that overlap, that touch and that leave gaps; channels that are packs of four and that are not, and more than
// a block of them; rows and columns that are in no window.
const Window kWindows[] = {
    {{1, 1, 1, 1}, {}},
    {{2, 5, 7, 3}, {.kernel_h = 3, .kernel_w = 3, .stride = 2}},
    {{2, 5, 6, 4}, {.kernel_h = 3, .kernel_w = 3, .stride = 1, .pad_h = 1, .pad_w = 1}},
    {{1, 9, 8, 5}, {.kernel_h = 2, .kernel_w = 2, .stride = 2}},
    {{3, 7, 6, 17}, {.kernel_h = 3, .kernel_w = 2, .stride = 2, .pad_h = 2, .pad_w = 1}},
    {{2, 8, 7, 8}, {.kernel_h = 2, .kernel_w = 1, .stride = 3, .pad_h = 1}},
    {{1, 6, 5, 130}, {.kernel_h = 5, .kernel_w = 3, .stride = 1, .pad_h = 2, .pad_w = 2}},
    {{1, 4, 50, 68}, {.kernel_h = 3, .kernel_w = 3, .stride = 2, .pad_h = 1, .pad_w = 1}},
};

}  // namespace

std::vector<OpCase> PoolCases() {
  std::vector<OpCase> cases{GlobalCase({1, 1, 1, 1}), GlobalCase({2, 3, 5, 7}), GlobalCase({3, 8, 8, 68})};
  for (const PoolKind kind : {PoolKind::kMax, PoolKind::kAverage, PoolKind::kAverageInside}) {
    for (const auto& [x, window] : kWindows) cases.push_back(PoolCase(x, kind, window));
  }
  // As in Inception.
  const PoolWindow reduce{.kernel_h = 3, .kernel_w = 3, .stride = 2};
  const PoolWindow keep{.kernel_h = 3, .kernel_w = 3, .stride = 1, .pad_h = 1, .pad_w = 1};
  for (const auto& mark : {Timed, Large}) {
    cases.push_back(mark(PoolCase({8, 147, 147, 64}, PoolKind::kMax, reduce)));
    cases.push_back(mark(PoolCase({8, 35, 35, 192}, PoolKind::kAverageInside, keep)));
    cases.push_back(mark(GlobalCase({8, 8, 8, 2048})));
  }
  return cases;
}

}  // namespace shardit
