// Bilinear resizing of images, as the networks that judge them expect it: y = scale * interpolated + shift.
//
//   x [N, H, W, C], y [N, height, width, C]: dense, fp32, channels innermost; scale and shift map the values' range
//   to the network's, for instance [0, 255] to [-1, 1]. An output pixel i along a side lies at s of the input,
//     kBilinear     s = max(0, (i + 1/2) in / out - 1/2)   pixels' centres, as in torch.nn.functional.interpolate with
//                   mode="bilinear", align_corners=False, antialias=False
//     kBilinearTf1  s = i in / out                         pixels' corners, as in TensorFlow 1's ResizeBilinear with
//                   align_corners=False, half_pixel_centers=False: the graph of the original FID (Heusel et al., arXiv
//                   1706.08500) shifts images by up to half a pixel this way, and scores depend on it
//   and is the mean of pixels floor(s) and floor(s) + 1, weighted by their nearness; the last pixel goes on beyond the
//   image.
// s is computed in fp32, every step rounded, as PyTorch 2 does: among hundreds of pixels an exact s would move the
// weights by 1e-5. Equal sizes copy. No smoothing when an image shrinks. The same bits on both backends and for every
// number of threads.
// No gradient: images are data. Failure: shapes that do not fit, and empty images, are a CHECK.
#pragma once

#include <cmath>

#include "core/base/host_device.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

enum class ResizeMode { kBilinear, kBilinearTf1 };

Tensor ResizeBilinear(RankContext& context, const Tensor& x_NHWC, int64_t height, int64_t width, ResizeMode mode,
                      float scale = 1, float shift = 0);

// One side of the images.
struct ResizeSide {
  ResizeMode mode = ResizeMode::kBilinear;
  int in = 0;  // pixels
  int out = 0;
  float ratio = 0;  // in / out
};

// The input pixels that make an output pixel: near with weight 1 - far_weight, and far.
struct ResizeTap {
  int near = 0;
  int far = 0;
  float far_weight = 0;
};

SHARDIT_HOST_DEVICE inline ResizeTap TapOf(const ResizeSide& side, int out) {
  const float at = side.mode == ResizeMode::kBilinear
                       ? fmaxf(0.0f, side.ratio * (static_cast<float>(out) + 0.5f) - 0.5f)
                       : side.ratio * static_cast<float>(out);
  const int last = side.in - 1;
  const int near = static_cast<int>(at) < last ? static_cast<int>(at) : last;
  const float far_weight = fminf(at - static_cast<float>(near), 1.0f);
  return {near, near < last ? near + 1 : last, far_weight};
}

struct ResizeBilinearArgs {
  ResizeSide rows;
  ResizeSide columns;
  int64_t images = 0;
  int64_t channels = 0;
  float scale = 1;
  float shift = 0;
  const float* x = nullptr;
  float* y = nullptr;
};

namespace cpu {

void ResizeBilinear(const ResizeBilinearArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void ResizeBilinear(const ResizeBilinearArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
