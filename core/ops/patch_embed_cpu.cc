#include <algorithm>

#include "core/ops/patch_embed.h"

namespace shardit::cpu {

void Patchify(const PatchifyArgs& args, CpuContext& context) {
  const auto& [x, out, images, channels, grid_h, grid_w, patch] = args;
  const double elements = static_cast<double>(images * channels * grid_h * grid_w * patch * patch);
  if (context.Planned({"patchify", 0, 8.0 * elements})) return;
  const int64_t width = grid_w * patch, plane = grid_h * patch * width, row_size = channels * patch * patch;
  constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
  // One item is a row of patches of one image.
  context.pool.ParallelFor(images * grid_h, kGrain / (grid_w * row_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / grid_h, grid_row = item % grid_h;
      float* rows = out + item * grid_w * row_size;
      for (int64_t line = 0; line < channels * patch; ++line) {  // (channel, row in patch)
        const int64_t channel = line / patch, row = line % patch;
        const float* from = x + (image * channels + channel) * plane + (grid_row * patch + row) * width;
        for (int64_t token = 0; token < grid_w; ++token) {
          for (int64_t i = 0; i < patch; ++i) rows[token * row_size + line * patch + i] = from[token * patch + i];
        }
      }
    }
  });
}

}  // namespace shardit::cpu
