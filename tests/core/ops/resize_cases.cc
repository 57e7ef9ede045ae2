// Resizing. Legend: N images, H and W sides, C channels.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/ops/resize.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

constexpr float kScale = 2, kShift = -1;

// Where output pixel `i` lies: in fp32, as the header says.
double PlaceOf(ResizeMode mode, int64_t in, int64_t out, int64_t i) {
  const float ratio = static_cast<float>(in) / static_cast<float>(out);
  if (mode == ResizeMode::kBilinearTf1) return ratio * static_cast<float>(i);
  const float centre = ratio * (static_cast<float>(i) + 0.5f);
  return std::max(0.0f, centre - 0.5f);
}

// The image at (row, column), which lies between its pixels; the last ones go on beyond it.
double Interpolated(const Array& x, int64_t n, double row, double column, int64_t c) {
  const auto pixel = [&](double i, double j) {
    return x(n, std::min(static_cast<int64_t>(i), x.dim(1) - 1), std::min(static_cast<int64_t>(j), x.dim(2) - 1), c);
  };
  const double top = std::floor(row), left = std::floor(column), down = row - top, right = column - left;
  return (1 - down) * ((1 - right) * pixel(top, left) + right * pixel(top, left + 1)) +
         down * ((1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1));
}

OpCase ResizeCase(Shape x, int64_t height, int64_t width, ResizeMode mode) {
  return {.name = CaseName("resize", {x[0], x[1], x[2], x[3], height, width},
                           mode == ResizeMode::kBilinearTf1 ? "tf1" : ""),
          .inputs = {{.shape = x, .wants_grad = false, .role = OpRole::kData}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Var(ResizeBilinear(tape.context(), in[0].value(), height, width, mode, kScale, kShift))};
          },
          .naive = [=](const Arrays& in) -> Arrays {
            Array y({x[0], height, width, x[3]});
            for (int64_t n = 0; n < x[0]; ++n) {
              for (int64_t i = 0; i < height * width; ++i) {
                const double row = PlaceOf(mode, x[1], height, i / width),
                             column = PlaceOf(mode, x[2], width, i % width);
                for (int64_t c = 0; c < x[3]; ++c) {
                  y(n, i / width, i % width, c) = kScale * Interpolated(in[0], n, row, column, c) + kShift;
                }
              }
            }
            return {y};
          },
          .tolerance = 1e-6};
}

struct Sizes {
  Shape x;
  int64_t height;
  int64_t width;
};
// The last one is so wide that every rounding of a place shows.
const Sizes kSizes[] = {{{1, 1, 1, 1}, 1, 1},     {{1, 1, 1, 3}, 4, 5},       {{2, 5, 7, 3}, 11, 9},
                        {{2, 11, 9, 3}, 5, 7},    {{1, 8, 8, 1}, 8, 8},       {{3, 6, 4, 5}, 1, 1},
                        {{1, 32, 32, 3}, 97, 61}, {{1, 70, 150, 2}, 33, 149}, {{1, 3, 2, 1}, 7, 300},
                        {{2, 16, 16, 68}, 8, 24}, {{1, 3, 2999, 1}, 2, 1000}};

}  // namespace

std::vector<OpCase> ResizeCases() {
  std::vector<OpCase> cases;
  for (const ResizeMode mode : {ResizeMode::kBilinear, ResizeMode::kBilinearTf1}) {
    for (const auto& [x, height, width] : kSizes) cases.push_back(ResizeCase(x, height, width, mode));
    cases.push_back(Timed(ResizeCase({8, 256, 256, 3}, 299, 299, mode)));
    cases.push_back(Large(ResizeCase({8, 256, 256, 3}, 299, 299, mode)));
  }
  return cases;
}

}  // namespace shardit
