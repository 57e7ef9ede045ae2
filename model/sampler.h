// Draws latents from a trained model: DDPM and DDIM on a subset of the trained steps, with classifier-free guidance.
//
// Sources: DDPM, Ho et al. (arXiv 2006.11239), algorithm 2; respacing, Nichol and Dhariwal (arXiv 2102.09672), section
// 4; DDIM, Song et al. (arXiv 2010.02502), equation 12; guidance, Ho and Salimans (arXiv 2207.12598). The authors'
// code: facebookresearch/DiT, diffusion/gaussian_diffusion.py, respace.py and models.py (forward_with_cfg).
//
// Choices: the steps are KeptSteps() for both samplers; nothing is clipped; a model without learned sigma samples with
// variance beta ("fixed large", the authors' default for it); guidance applies to the first 3 channels of the
// prediction (the published scores' way) unless all are asked for, and the other channels and the variance are the
// conditional model's. Arithmetic of a step is fp64 per element, rounded once to fp32.
//
// A sample is a function of (seed, its index, its label) and of the model: its noise is keyed by them and its
// arithmetic never sees its neighbours. Batches are the caller's; where the model's bits for an image depend on the
// batch's size, equal samples need equal sizes (pad the last batch).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/thread_pool.h"
#include "model/diffusion.h"
#include "model/dit_config.h"

namespace shardit {

enum class SamplerKind { kDdpm, kDdim };

// Command-line spelling: "ddpm", "ddim". The parser's InvalidArgument lists them.
std::string_view Name(SamplerKind kind);
absl::StatusOr<SamplerKind> ParseSamplerKind(std::string_view name);

struct SamplerOptions {
  SamplerKind kind = SamplerKind::kDdpm;
  int64_t steps = 250;     // 2 .. the trained steps
  double eta = 0.0;        // DDIM only, 0 .. 1: 0 is deterministic, 1 has DDPM's posterior variance
  double cfg_scale = 1.0;  // 1: no guidance, one model call a sample; 0: the unconditional model
  bool guide_all_channels = false;
  uint64_t seed = 0;
};

// What the model is asked: x [n, C, H, W], t [n] (trained steps' numbers) and y [n] in, out [n, out_channels, H, W].
using SampledModel = std::function<void(const float* x, const int64_t* t, const int32_t* y, int64_t n, float* out)>;

class Sampler {
 public:
  // Copies what it needs. InvalidArgument with field, expectation and value. `config` has passed Validate(); its
  // learn_sigma is that of `trained`, which is the process of the training and not respaced.
  static absl::StatusOr<Sampler> Create(const Diffusion& trained, const DitConfig& config,
                                        const SamplerOptions& options);

  // The respaced process; its last step is the first to be taken.
  const Diffusion& process() const { return process_; }
  bool guided() const { return options_.cfg_scale != 1.0; }
  int64_t latent_elements() const { return elements_; }

  // x_0 of one batch: sample index and label (a class, or the null class) in, out [n, C, H, W]. Calls the model once a
  // step, with n images or, guided, 2 n: the latents with their labels, then the same latents with the null class. The
  // model is called from this thread; the pool shares out images between its calls.
  void Sample(const SampledModel& model, std::span<const int64_t> samples, std::span<const int32_t> labels,
              ThreadPool& pool, float* out) const;

  // The parts of Sample(), for one image and for comparing step by step.
  // Noise number `draw` of a sample, [C, H, W]: 0 is the starting latent, draw d belongs to the d-th model call.
  void Noise(int64_t sample, int64_t draw, float* out) const;
  // Model output of one image with guidance, over the conditional output: the prediction's guided channels become
  // unconditional + cfg_scale (conditional - unconditional).
  void Guide(float* conditional, const float* unconditional) const;
  // x before the k-th kept step from x at it: output is [out_channels, H, W], noise [C, H, W]. x_prev may be x. At k =
  // 0 the noise is not used and may be null, as in DDIM with eta 0.
  void Step(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const;

 private:
  Sampler(Diffusion process, const DitConfig& config, const SamplerOptions& options);
  void DdpmStep(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const;
  void DdimStep(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const;
  bool NeedsNoise(int64_t k) const;

  Diffusion process_;
  SamplerOptions options_;
  int64_t elements_;         // C H W
  int64_t output_elements_;  // of one image's model output
  int64_t guided_elements_;  // of the prediction: those that guidance changes
  int32_t null_class_;
};

// Image bytes from values in [-1, 1]: truncate(clamp(127.5 x + 128, 0, 255)) in fp32. NaN gives 0.
void ToUint8(const float* values, int64_t count, uint8_t* out);

}  // namespace shardit
