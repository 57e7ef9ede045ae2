// DiffusionBatch: noised images on their way through the model, and the loss of what it makes of them. Training,
// held-out loss and parity all go through these functions.
//
// On a GPU the batch lies in device memory. Training draws it there (DrawBatch), from latents, labels and positions
// that lie there too, and waits for nothing; who reads batches from files fills one on the host (ForHost, Placed).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/autograd/tape.h"
#include "model/diffusion.h"
#include "model/diffusion_loss.h"
#include "model/dit.h"

namespace shardit {

struct DiffusionBatch {
  Tensor x_0, noise;  // [N, C, H, W] fp32
  DitInput input;     // x_t, t and labels
  Tensor constants;   // on a GPU: the LossConstants of each image's t, as bytes

  // Tensors of `count` images where `allocator` has its memory, undefined. `x_0` may be replaced by a view of somebody
  // else's.
  static DiffusionBatch Allocate(Allocator& allocator, const DitConfig& config, int64_t count);
  // Tensors of `count` images for the host to fill, wherever the rank computes: undefined.
  static DiffusionBatch ForHost(RankContext& context, const DitConfig& config, int64_t count);
  // A batch that the host filled, as the model and its loss take it: itself on the CPU, else a copy in device memory,
  // enqueued. The batch may go once the call returns.
  DiffusionBatch Placed(RankContext& context, const Diffusion& diffusion) const;

  int64_t images() const { return x_0.dim(0); }
  int64_t elements() const { return x_0.elements() / images(); }
  // Image n's part of a latent tensor of this batch. In host memory, as is all that NoiseImage touches.
  float* Image(const Tensor& latents, int64_t n) const { return latents.data() + n * elements(); }

  // Fills x_t of image n from its x_0, noise and t.
  void NoiseImage(const Diffusion& diffusion, int64_t n) const;

  std::shared_ptr<void> host_memory;  // of ForHost, on a rank that computes on a GPU
};

// Samples as training gets them, on the rank's device: of N images or more.
struct SampleTensors {
  Tensor x;          // [N, C, H, W] fp32
  Tensor labels;     // [N] i32
  Tensor positions;  // [N] i64, in the training stream

  SampleTensors Images(int64_t first, int64_t count) const {
    return {x.Narrow(0, first, count), labels.Narrow(0, first, count), positions.Narrow(0, first, count)};
  }
};

// The LossConstants of every t in device memory, as bytes: for DrawBatch. Waits for the device.
Tensor LossTable(Allocator& allocator, const Diffusion& diffusion);

// On a GPU: the samples with noise, t and label drop drawn by (seed, position), bit for bit as on the CPU. Nothing but
// the seed is fixed when the call returns: a recorded call replays with the samples that then lie there. `table` is
// LossTable.
DiffusionBatch DrawBatch(RankContext& context, const DitConfig& config, const Tensor& table, uint64_t seed,
                         const SampleTensors& samples);

struct ForwardLossResult {
  Var output;
  Tensor d_output;  // gradient of the loss; undefined where the tape does not record

  // On the CPU; on a GPU after FetchLoss.
  LossResult loss;  // the images' sums over `denominator`
  std::vector<ImageLoss> per_image;

  // On a GPU: [N, 2] fp64, an ImageLoss each.
  Tensor device_per_image;
  double denominator = 1;

  // On a GPU waits for the device and fills `loss` and `per_image`; else nothing is to be done.
  void FetchLoss();
};

// Runs the model and its loss. `denominator` is the number of images that the loss is a mean over (DiffusionLossArgs).
ForwardLossResult ForwardLoss(Tape& tape, const Dit& model, const Diffusion& diffusion, const DiffusionBatch& batch,
                              double denominator, const DitForwardOptions& options = {});
// The loss alone, of an output that the model has already given for the batch.
ForwardLossResult LossOf(Tape& tape, Var output, const Diffusion& diffusion, const DiffusionBatch& batch,
                         double denominator);

namespace cuda {

// All in device memory. Inputs: `table` [steps], x_0 [N, elements], labels and positions [N]. The rest is written.
struct NoiseArgs {
  uint64_t seed = 0;
  int64_t images = 0;    // N
  int64_t elements = 0;  // of an image
  const LossConstants* table = nullptr;
  int64_t steps = 0;
  float label_dropout = 0;
  int32_t null_class = 0;
  const float* x_0 = nullptr;
  const int32_t* labels = nullptr;
  const int64_t* positions = nullptr;

  float* noise = nullptr;
  float* x_t = nullptr;
  int64_t* t = nullptr;
  int32_t* y = nullptr;
  LossConstants* constants = nullptr;
};
void DrawNoise(const NoiseArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
