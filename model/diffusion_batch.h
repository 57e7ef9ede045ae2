// DiffusionBatch: noised images on their way through the model, and the loss of what it makes of them. Training,
// held-out loss and parity all go through these functions.
#pragma once

#include <cstdint>
#include <vector>

#include "core/autograd/tape.h"
#include "model/diffusion.h"
#include "model/diffusion_loss.h"
#include "model/dit.h"

namespace shardit {

struct DiffusionBatch {
  Tensor x_0, noise;  // [N, C, H, W] fp32
  DitInput input;     // x_t, t and labels

  // Tensors of `count` images, undefined. `x_0` may be replaced by a view of somebody else's.
  static DiffusionBatch Allocate(Allocator& allocator, const DitConfig& config, int64_t count);

  int64_t images() const { return x_0.dim(0); }
  int64_t elements() const { return x_0.elements() / images(); }
  // Image n's part of a latent tensor of this batch.
  float* Image(const Tensor& latents, int64_t n) const { return latents.data() + n * elements(); }

  // Fills x_t of image n from its x_0, noise and t.
  void NoiseImage(const Diffusion& diffusion, int64_t n) const;
};

struct ForwardLossResult {
  Var output;
  Tensor d_output;  // gradient of the loss; undefined where the tape does not record
  LossResult loss;  // the images' sums over `denominator`
  std::vector<ImageLoss> per_image;
};

// Runs the model and its loss. `denominator` is the number of images that the loss is a mean over (DiffusionLossArgs).
ForwardLossResult ForwardLoss(Tape& tape, const Dit& model, const Diffusion& diffusion, const DiffusionBatch& batch,
                              double denominator, const DitForwardOptions& options = {});
// The loss alone, of an output that the model has already given for the batch.
ForwardLossResult LossOf(Tape& tape, Var output, const Diffusion& diffusion, const DiffusionBatch& batch,
                         double denominator);

}  // namespace shardit
