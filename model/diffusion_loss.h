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
// added in order. So the result is the same bits for any number of threads. On CUDA an image is summed by blocks of
// threads in a fixed order. NaN in the output gives NaN in loss and gradient.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/thread_pool.h"
#include "core/tensor/cuda_context.h"
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

// What the elements of an image at step t have in common.
struct LossConstants {
  Diffusion::PredictedX0 predicted_x0;
  Diffusion::Target target;
  double sqrt_alpha_bar;
  double sqrt_one_minus_alpha_bar;
  double posterior_x0;
  double posterior_xt;
  double log_variance;      // of the true posterior, clipped: frac = 0
  double log_range;         // log(beta) - log_variance: frac = 1
  double inverse_variance;  // of the true posterior
  int64_t first_step;       // t = 0
};
LossConstants ConstantsAt(const Diffusion& diffusion, int64_t t);

namespace cuda {

// As DiffusionLossArgs, in device memory; a step's constants travel with the image.
struct DeviceLossArgs {
  int64_t images = 0;
  int64_t elements = 0;
  bool learn_sigma = false;
  const LossConstants* constants = nullptr;  // [N]
  const float* x_0 = nullptr;
  const float* noise = nullptr;
  const float* output = nullptr;
  double denominator = 1;
  float* d_output = nullptr;
  double grad_scale = 1;
  ImageLoss* per_image = nullptr;
};
void DiffusionLoss(const DeviceLossArgs& args, CudaContext& context);

// Adds losses, mse and vb of the images to three sums of exact::kLimbs (core/base/exact_digits.h) that lie behind each
// other in device memory: the integers that ExactSum has.
void AddImageLosses(const ImageLoss* images, int64_t count, int64_t* limbs, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
