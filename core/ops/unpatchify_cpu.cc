#include <algorithm>

#include "core/ops/unpatchify.h"

namespace shardit::cpu {
namespace {

// Calls move(index in y, index in x) for every element, walking y's rows so that one side is contiguous.
template <class Move>
void ForEach(const UnpatchifyShape& shape, CpuContext& context, const Move& move) {
  const auto& [images, channels, patch, grid_h, grid_w] = shape;
  const double elements = static_cast<double>(images * channels * grid_h * grid_w * patch * patch);
  if (context.Planned({"unpatchify", 0, 8.0 * elements})) return;
  const int64_t row_size = patch * patch * channels;
  constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
  context.pool.ParallelFor(images * grid_h, kGrain / (grid_w * row_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {  // a row of patches of one image
      const int64_t image = item / grid_h, grid_row = item % grid_h;
      for (int64_t line = 0; line < channels * patch; ++line) {  // (channel, row in patch)
        const int64_t channel = line / patch, row = line % patch;
        const int64_t y_row = (image * channels + channel) * grid_h * patch + grid_row * patch + row;
        int64_t at = y_row * grid_w * patch;
        for (int64_t token = 0; token < grid_w; ++token) {
          const int64_t first = (item * grid_w + token) * row_size + row * patch * channels + channel;
          for (int64_t column = 0; column < patch; ++column) move(at++, first + column * channels);
        }
      }
    }
  });
}

}  // namespace

void UnpatchifyFwd(const UnpatchifyFwdArgs& args, CpuContext& context) {
  ForEach(args.shape, context, [&](int64_t in_y, int64_t in_x) { args.y[in_y] = args.x[in_x]; });
}

void UnpatchifyBwd(const UnpatchifyBwdArgs& args, CpuContext& context) {
  if (args.accumulate) {
    ForEach(args.shape, context, [&](int64_t in_y, int64_t in_x) { args.dx[in_x] += args.dy[in_y]; });
  } else {
    ForEach(args.shape, context, [&](int64_t in_y, int64_t in_x) { args.dx[in_x] = args.dy[in_y]; });
  }
}

}  // namespace shardit::cpu
