// The training loss of a batch and its gradient with respect to the model's output, in one pass and without a tape.
//
//   loss = mse + vb, each the mean over an image's elements, then over the batch
//   mse  = (target - output)^2; the target is the noise, x_0 or v (Diffusion::target)
//   vb   = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) / ln 2 for t > 0; at t = 0 -log p(x_0 | x_1) / ln 2, where p
//   is
//          a Gaussian integrated over bins of +-1/255, open beyond +-0.999, with the tanh form of the normal CDF and
//          the probability clamped to at least 1e-12
// vb sees the predicted mean as a constant: its gradient reaches the variance channels only. Without learned sigma
// there is no vb. Weights are 1 each, as in the authors' code (facebookresearch/DiT, diffusion/gaussian_diffusion.py;
// Nichol and Dhariwal, arXiv 2102.09672, section 3.1: L_hybrid with the authors' weight).
//
// All arithmetic is fp64 per element; x_t too is formed anew in fp64, since near t = 0 the rounding of the fp32 x_t
// that the model was given would show in the derivative (3e-5 of it for latents of deviation 4). At t = 0 the
// difference of the two CDFs, sigmoid(a) - sigmoid(b) with a > b, is taken as sigmoid(a) sigmoid(-b) (1 - e^(b - a)),
// which keeps its digits in the tails. Derivatives of clamp and of branches are PyTorch's: none below the clamp's
// bound, full at it; only the branch taken counts.
//
// Determinism: an image is summed by one thread in element order over the lanes of the instruction set; images are
// added in order. So the result is the same bits for any number of threads. NaN in the output gives NaN in loss and
// gradient.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/thread_pool.h"
#include "model/diffusion.h"

namespace shardit {

// Means over one image's elements; vb in bits.
struct ImageLoss {
  double mse = 0;
  double vb = 0;
  double loss() const { return mse + vb; }
};

struct DiffusionLossArgs {
  int64_t images = 0;            // N
  int64_t elements = 0;          // C H W of one latent
  const int64_t* t = nullptr;    // [N], each in [0, diffusion.steps())
  const float* x_0 = nullptr;    // [N, C, H, W]
  const float* noise = nullptr;  // like x_0
  // [N, 2 C, H, W] with learned sigma (prediction, then variance value), else [N, C, H, W].
  const float* output = nullptr;
  // Images that the means are over: the global batch, so that the results of its micro-batches add up to its loss.
  double denominator = 1;
  // d_output, like output, is overwritten with grad_scale / denominator times the gradient of the images' summed loss.
  // Null: no gradient. May be `output`.
  float* d_output = nullptr;
  double grad_scale = 1;
  // [N], overwritten.
  std::span<ImageLoss> per_image;
};

// Sums over the given images, divided by the denominator.
struct LossResult {
  double loss = 0;
  double mse = 0;
  double vb = 0;
};

// Blocks until done; images are shared out over the pool. CHECK-fails on a t out of range or a wrong per_image size.
LossResult DiffusionLoss(const Diffusion& diffusion, const DiffusionLossArgs& args, ThreadPool& pool);

}  // namespace shardit
