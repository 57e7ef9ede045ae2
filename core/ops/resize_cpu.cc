#include <algorithm>
#include <vector>

#include "core/ops/resize.h"

namespace shardit::cpu {
namespace {

// One row of y from the two rows of x that it lies between.
void ResizeRow(const ResizeBilinearArgs& args, const std::vector<ResizeTap>& taps, const float* near_row,
               const float* far_row, float far_weight, float* y) {
  const int64_t channels = args.channels;
  const float near_weight = 1 - far_weight;
  for (const ResizeTap& tap : taps) {
    const float left = 1 - tap.far_weight, right = tap.far_weight;
    const float *near_left = near_row + tap.near * channels, *near_right = near_row + tap.far * channels;
    const float *far_left = far_row + tap.near * channels, *far_right = far_row + tap.far * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float near = left * near_left[c] + right * near_right[c];
      const float far = left * far_left[c] + right * far_right[c];
      *y++ = args.scale * (near_weight * near + far_weight * far) + args.shift;
    }
  }
}

}  // namespace

void ResizeBilinear(const ResizeBilinearArgs& args, CpuContext& context) {
  const auto& [rows, columns, images, channels, scale, shift, x, y] = args;
  const double in = static_cast<double>(images * channels) * rows.in * columns.in;
  const double out = static_cast<double>(images * channels) * rows.out * columns.out;
  if (context.Planned({"resize", 0, 4 * (in + out)})) return;
  std::vector<ResizeTap> taps;
  for (int column = 0; column < columns.out; ++column) taps.push_back(TapOf(columns, column));
  constexpr int64_t kGrain = 4096;  // elements: below it, waking a thread costs more than it saves
  const int64_t in_row = columns.in * channels, out_row = columns.out * channels;
  // One item is a row of y.
  context.pool.ParallelFor(images * rows.out, kGrain / std::max<int64_t>(1, out_row),
                           [&](int64_t begin, int64_t end, int) {
                             for (int64_t item = begin; item < end; ++item) {
                               const ResizeTap tap = TapOf(rows, static_cast<int>(item % rows.out));
                               const float* image = x + item / rows.out * rows.in * in_row;
                               ResizeRow(args, taps, image + tap.near * in_row, image + tap.far * in_row,
                                         tap.far_weight, y + item * out_row);
                             }
                           });
}

}  // namespace shardit::cpu
