// The diffusion process: the noise schedule as fp64 tables, noising, and the random draws of a training sample.
// Immutable after construction, so any number of threads may read one.
//
// Sources: Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), equations 4-7; Nichol and
// Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672), sections 3.1-3.3; v-prediction:
// Salimans and Ho (arXiv 2202.00512), appendix D. The authors' code: facebookresearch/DiT,
// diffusion/gaussian_diffusion.py, respace.py.
//
//   x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) noise,  ab_t = prod over s <= t of (1 - beta_s)
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

enum class NoiseSchedule {
  kLinear,  // betas evenly spaced from 1e-4 to 0.02, times 1000 / steps
  kCosine,  // ab_t = cos^2 of (t/steps + 0.008) / 1.008 * pi/2, betas at most 0.999
};

// What the model's first C output channels stand for.
enum class Prediction {
  kEpsilon,  // the noise
  kX0,       // the clean latent
  kV,        // sqrt(ab) noise - sqrt(1 - ab) x_0
};

// Configuration spelling: "LINEAR", "COSINE"; "EPSILON", "X0", "V". The parsers' InvalidArgument lists the spellings.
std::string_view Name(NoiseSchedule schedule);
std::string_view Name(Prediction prediction);
absl::StatusOr<NoiseSchedule> ParseNoiseSchedule(std::string_view name);
absl::StatusOr<Prediction> ParsePrediction(std::string_view name);

struct DiffusionOptions {
  int64_t steps = 1000;
  NoiseSchedule schedule = NoiseSchedule::kLinear;
  Prediction prediction = Prediction::kEpsilon;
  // The model's last C channels v give the log-variance: frac log(beta) + (1 - frac) posterior, frac = (v + 1) / 2.
  bool learn_sigma = true;

  // InvalidArgument with field, expectation and value. Linear needs more than 20 steps: with fewer its last beta is not
  // below 1.
  absl::Status Validate() const;
  bool operator==(const DiffusionOptions&) const = default;
};

// One row of the tables. The posterior is q(x_{t-1} | x_t, x_0) = N(posterior_x0 x_0 + posterior_xt x_t, variance).
struct DiffusionStep {
  int64_t timestep;  // what the model is told: t of the trained process, also where steps were left out
  double beta;
  double alpha_bar;
  double alpha_bar_prev;            // 1 at the first step
  double sqrt_alpha_bar;            // factor of x_0 in x_t
  double sqrt_one_minus_alpha_bar;  // factor of the noise in x_t
  double posterior_x0;
  double posterior_xt;
  double posterior_variance;      // 0 at the first step
  double posterior_log_variance;  // clipped: the first step takes the second's
  double log_beta;
  // Log-variance of the sampler's step where it is not learned: log(beta), and at the first step the clipped
  // posterior's. This is the authors' choice for models without learned sigma ("fixed large").
  double fixed_log_variance;
};

class Diffusion {
 public:
  // `options` has passed Validate().
  explicit Diffusion(const DiffusionOptions& options);

  // The process that visits only the given steps of this one (strictly increasing, at least two): betas are rebuilt
  // from the kept ab, so that the marginals at kept steps stay what they were.
  Diffusion Respaced(std::span<const int64_t> kept) const;

  const DiffusionOptions& options() const { return options_; }  // of the trained process
  int64_t steps() const { return static_cast<int64_t>(table_.size()); }
  const DiffusionStep& at(int64_t t) const;

  // x_0 as the model's output implies it: x_t * form.x_t + output * form.output.
  struct PredictedX0 {
    double x_t;
    double output;
  };
  PredictedX0 predicted_x0(int64_t t) const;

  // What the model's output should be: x_0 * form.x_0 + noise * form.noise.
  struct Target {
    double x_0;
    double noise;
  };
  Target target(int64_t t) const;

  // x_t of one image, [count] each: fp64 arithmetic, rounded once. x_t may be x_0 or noise.
  void AddNoise(int64_t t, const float* x_0, const float* noise, int64_t count, float* x_t) const;

  // t of the sample at a global position of the training stream: uniform over the steps.
  int64_t DrawTimestep(uint64_t seed, int64_t position) const;

 private:
  Diffusion(const DiffusionOptions& options, std::span<const double> betas, std::span<const int64_t> timesteps);

  DiffusionOptions options_;
  std::vector<DiffusionStep> table_;
};

// The steps that a sampler of n steps keeps of `steps`: round(i (steps - 1) / (n - 1)), half to even, in integers.
// 2 <= n <= steps.
std::vector<int64_t> KeptSteps(int64_t steps, int64_t n);

// Draws of the sample at a global position: pure functions of (seed, position), the same on every rank and layout.
// DrawNoise writes `count` standard normals. DrawLabelDrop is true with the given probability.
void DrawNoise(uint64_t seed, int64_t position, int64_t count, float* out);
bool DrawLabelDrop(uint64_t seed, int64_t position, float probability);

}  // namespace shardit
