#include "model/sampler.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/rng.h"

namespace shardit {
namespace {

constexpr int64_t kPublishedGuidedChannels = 3;

absl::Status CheckOptions(const SamplerOptions& options, int64_t trained_steps) {
  if (options.steps < 2 || options.steps > trained_steps) {
    return absl::InvalidArgumentError(
        fmt::format("sampling steps: expected 2 to the model's {} diffusion steps, got {}; change --steps",
                    trained_steps, options.steps));
  }
  if (!(options.eta >= 0.0 && options.eta <= 1.0)) {
    return absl::InvalidArgumentError(
        fmt::format("DDIM eta: expected 0 to 1, got {}; change the sampler's eta", options.eta));
  }
  if (!(options.cfg_scale >= 0.0) || !std::isfinite(options.cfg_scale)) {
    return absl::InvalidArgumentError(
        fmt::format("guidance scale: expected a finite number from 0, got {}; change --cfg-scale", options.cfg_scale));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view Name(SamplerKind kind) { return kind == SamplerKind::kDdpm ? "ddpm" : "ddim"; }

absl::StatusOr<SamplerKind> ParseSamplerKind(std::string_view name) {
  for (const SamplerKind kind : {SamplerKind::kDdpm, SamplerKind::kDdim}) {
    if (Name(kind) == name) return kind;
  }
  return absl::InvalidArgumentError(fmt::format("sampler: expected ddpm or ddim, got \"{}\"; change --sampler", name));
}

absl::StatusOr<Sampler> Sampler::Create(const Diffusion& trained, const DitConfig& config,
                                        const SamplerOptions& options) {
  CHECK_EQ(config.learn_sigma, trained.options().learn_sigma) << "[sampler] learned sigma of model and diffusion";
  CHECK_EQ(trained.steps(), trained.options().steps) << "[sampler] the process is respaced already";
  if (const absl::Status status = CheckOptions(options, trained.steps()); !status.ok()) return status;
  return Sampler(trained.Respaced(KeptSteps(trained.steps(), options.steps)), config, options);
}

Sampler::Sampler(Diffusion process, const DitConfig& config, const SamplerOptions& options)
    : process_(std::move(process)),
      options_(options),
      elements_(config.latent_elements()),
      output_elements_(config.out_channels() * config.side * config.side),
      guided_elements_(
          (options.guide_all_channels ? config.channels : std::min(config.channels, kPublishedGuidedChannels)) *
          config.side * config.side),
      null_class_(static_cast<int32_t>(config.null_class())) {}

void Sampler::Noise(int64_t sample, int64_t draw, float* out) const {
  const RngKey key{options_.seed, RngPurpose::kSampler, static_cast<uint64_t>(sample)};
  FillNormal(key, static_cast<uint64_t>(draw * elements_), elements_, out);
}

void Sampler::Guide(float* conditional, const float* unconditional) const {
  const float scale = static_cast<float>(options_.cfg_scale);
  for (int64_t i = 0; i < guided_elements_; ++i) {
    conditional[i] = unconditional[i] + scale * (conditional[i] - unconditional[i]);
  }
}

bool Sampler::NeedsNoise(int64_t k) const {
  return k > 0 && (options_.kind == SamplerKind::kDdpm || options_.eta > 0.0);
}

void Sampler::Step(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const {
  CHECK(noise != nullptr || !NeedsNoise(k)) << "[sampler] step " << k << " needs noise";
  if (options_.kind == SamplerKind::kDdpm) {
    DdpmStep(k, x, output, noise, x_prev);
  } else {
    DdimStep(k, x, output, noise, x_prev);
  }
}

// x_{t-1} = posterior mean of the predicted x_0 + exp(log-variance / 2) noise.
void Sampler::DdpmStep(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const {
  const DiffusionStep& step = process_.at(k);
  const Diffusion::PredictedX0 form = process_.predicted_x0(k);
  const double from_x = step.posterior_xt + step.posterior_x0 * form.x_t;
  const double from_output = step.posterior_x0 * form.output;
  const double fixed_sigma = std::exp(0.5 * step.fixed_log_variance);
  const double half_range = 0.5 * (step.log_beta - step.posterior_log_variance);
  const bool learned = process_.options().learn_sigma, noisy = NeedsNoise(k);
  for (int64_t i = 0; i < elements_; ++i) {
    double next = from_x * x[i] + from_output * output[i];
    if (noisy) {
      const double sigma =
          learned ? std::exp(0.5 * (step.posterior_log_variance + half_range * (output[elements_ + i] + 1.0)))
                  : fixed_sigma;
      next += sigma * noise[i];
    }
    x_prev[i] = static_cast<float>(next);
  }
}

// x_{t-1} = sqrt(ab_prev) x_0 + sqrt(1 - ab_prev - sigma^2) epsilon + sigma noise, x_0 and epsilon as predicted.
void Sampler::DdimStep(int64_t k, const float* x, const float* output, const float* noise, float* x_prev) const {
  const DiffusionStep& step = process_.at(k);
  const Diffusion::PredictedX0 form = process_.predicted_x0(k);
  const double ab = step.alpha_bar, previous = step.alpha_bar_prev;
  const double sigma = options_.eta * std::sqrt((1.0 - previous) / (1.0 - ab)) * std::sqrt(1.0 - ab / previous);
  const double to_x_0 = std::sqrt(previous), to_epsilon = std::sqrt(std::max(0.0, 1.0 - previous - sigma * sigma));
  const bool noisy = NeedsNoise(k);
  for (int64_t i = 0; i < elements_; ++i) {
    const double x_0 = form.x_t * x[i] + form.output * output[i];
    const double epsilon = (x[i] - step.sqrt_alpha_bar * x_0) / step.sqrt_one_minus_alpha_bar;
    double next = to_x_0 * x_0 + to_epsilon * epsilon;
    if (noisy) next += sigma * noise[i];
    x_prev[i] = static_cast<float>(next);
  }
}

void Sampler::Sample(const SampledModel& model, std::span<const int64_t> samples, std::span<const int32_t> labels,
                     ThreadPool& pool, float* out) const {
  CHECK_EQ(samples.size(), labels.size()) << "[sampler] samples and labels";
  const int64_t n = static_cast<int64_t>(samples.size()), calls = guided() ? 2 * n : n;
  std::vector<float> x(calls * elements_), output(calls * output_elements_), noise(pool.threads() * elements_);
  std::vector<int64_t> t(calls);
  std::vector<int32_t> y(calls, null_class_);
  for (int64_t i = 0; i < n; ++i) {
    CHECK(labels[i] >= 0 && labels[i] <= null_class_) << "[sampler] label " << labels[i] << " of sample " << samples[i];
    y[i] = labels[i];
    Noise(samples[i], 0, x.data() + i * elements_);
  }
  for (int64_t k = process_.steps() - 1; k >= 0; --k) {
    std::fill(t.begin(), t.end(), process_.at(k).timestep);
    if (guided()) std::copy_n(x.begin(), n * elements_, x.begin() + n * elements_);
    model(x.data(), t.data(), y.data(), calls, output.data());
    pool.ParallelFor(n, 1, [&](int64_t begin, int64_t end, int thread) {
      float* own_noise = noise.data() + thread * elements_;
      for (int64_t i = begin; i < end; ++i) {
        float* own_output = output.data() + i * output_elements_;
        if (guided()) Guide(own_output, own_output + n * output_elements_);
        if (NeedsNoise(k)) Noise(samples[i], process_.steps() - k, own_noise);
        Step(k, x.data() + i * elements_, own_output, own_noise, x.data() + i * elements_);
      }
    });
  }
  std::copy_n(x.begin(), n * elements_, out);
}

void ToUint8(const float* values, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float scaled = 127.5f * values[i] + 128.0f;
    out[i] = scaled > 0.0f ? static_cast<uint8_t>(std::min(scaled, 255.0f)) : 0;
  }
}

}  // namespace shardit
