#include "model/diffusion.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/base/check.h"
#include "core/tensor/rng.h"
#include "model/diffusion_draws.h"

namespace shardit {
namespace {

std::vector<double> LinearBetas(int64_t steps) {
  // The total noise of 1000 steps is kept for other counts, as in the authors' code.
  const double scale = 1000.0 / static_cast<double>(steps);
  const double first = scale * 1e-4, last = scale * 0.02;
  std::vector<double> betas(steps);
  for (int64_t i = 0; i < steps; ++i) {
    betas[i] = first + static_cast<double>(i) * ((last - first) / static_cast<double>(steps - 1));
  }
  betas.back() = last;
  return betas;
}

std::vector<double> CosineBetas(int64_t steps) {
  constexpr double kOffset = 0.008, kMaxBeta = 0.999;
  const auto alpha_bar = [](double time) {
    const double c = std::cos((time + kOffset) / (1.0 + kOffset) * std::numbers::pi / 2.0);
    return c * c;
  };
  std::vector<double> betas(steps);
  for (int64_t i = 0; i < steps; ++i) {
    const double from = static_cast<double>(i) / static_cast<double>(steps);
    const double to = static_cast<double>(i + 1) / static_cast<double>(steps);
    betas[i] = std::min(1.0 - alpha_bar(to) / alpha_bar(from), kMaxBeta);
  }
  return betas;
}

std::vector<double> Betas(const DiffusionOptions& options) {
  return options.schedule == NoiseSchedule::kLinear ? LinearBetas(options.steps) : CosineBetas(options.steps);
}

std::vector<int64_t> AllSteps(int64_t steps) {
  std::vector<int64_t> all(steps);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

DiffusionStep MakeStep(int64_t timestep, double beta, double alpha_bar_prev) {
  DiffusionStep step{};
  step.timestep = timestep;
  step.beta = beta;
  step.alpha_bar = alpha_bar_prev * (1.0 - beta);
  step.alpha_bar_prev = alpha_bar_prev;
  step.sqrt_alpha_bar = std::sqrt(step.alpha_bar);
  step.sqrt_one_minus_alpha_bar = std::sqrt(1.0 - step.alpha_bar);
  step.posterior_x0 = beta * std::sqrt(alpha_bar_prev) / (1.0 - step.alpha_bar);
  step.posterior_xt = (1.0 - alpha_bar_prev) * std::sqrt(1.0 - beta) / (1.0 - step.alpha_bar);
  step.posterior_variance = beta * (1.0 - alpha_bar_prev) / (1.0 - step.alpha_bar);
  step.posterior_log_variance = std::log(step.posterior_variance);
  step.log_beta = std::log(beta);
  step.fixed_log_variance = step.log_beta;
  return step;
}

}  // namespace

std::string_view Name(NoiseSchedule schedule) { return schedule == NoiseSchedule::kLinear ? "LINEAR" : "COSINE"; }

std::string_view Name(Prediction prediction) {
  switch (prediction) {
    case Prediction::kEpsilon:
      return "EPSILON";
    case Prediction::kX0:
      return "X0";
    case Prediction::kV:
      return "V";
  }
  CHECK(false) << "prediction " << static_cast<int>(prediction);
  return "";
}

absl::StatusOr<NoiseSchedule> ParseNoiseSchedule(std::string_view name) {
  for (const NoiseSchedule schedule : {NoiseSchedule::kLinear, NoiseSchedule::kCosine}) {
    if (Name(schedule) == name) return schedule;
  }
  return absl::InvalidArgumentError(
      fmt::format("diffusion.schedule: expected LINEAR or COSINE, got \"{}\"; change diffusion.schedule", name));
}

absl::StatusOr<Prediction> ParsePrediction(std::string_view name) {
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
    if (Name(prediction) == name) return prediction;
  }
  return absl::InvalidArgumentError(
      fmt::format("diffusion.prediction: expected EPSILON, X0 or V, got \"{}\"; change diffusion.prediction", name));
}

absl::Status DiffusionOptions::Validate() const {
  const int64_t fewest = schedule == NoiseSchedule::kLinear ? 21 : 2;
  constexpr int64_t kMost = 100000;
  if (steps >= fewest && steps <= kMost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("diffusion.steps: expected {} to {} with schedule {}, got {}; change diffusion.steps", fewest, kMost,
                  Name(schedule), steps));
}

Diffusion::Diffusion(const DiffusionOptions& options) : Diffusion(options, Betas(options), AllSteps(options.steps)) {}

Diffusion::Diffusion(const DiffusionOptions& options, std::span<const double> betas, std::span<const int64_t> timesteps)
    : options_(options) {
  CHECK_GE(betas.size(), 2u);
  CHECK_EQ(betas.size(), timesteps.size());
  table_.reserve(betas.size());
  double alpha_bar = 1.0;
  for (size_t t = 0; t < betas.size(); ++t) {
    CHECK(betas[t] > 0.0 && betas[t] < 1.0) << "beta " << betas[t] << " at step " << t;
    table_.push_back(MakeStep(timesteps[t], betas[t], alpha_bar));
    alpha_bar = table_.back().alpha_bar;
  }
  // The first step's posterior has no variance, and so no logarithm of it.
  table_[0].posterior_log_variance = table_[1].posterior_log_variance;
  table_[0].fixed_log_variance = table_[1].posterior_log_variance;
}

Diffusion Diffusion::Respaced(std::span<const int64_t> kept) const {
  std::vector<double> betas;
  std::vector<int64_t> timesteps;
  double previous = 1.0;
  int64_t last = -1;
  for (const int64_t t : kept) {
    CHECK_GT(t, last);
    last = t;
    betas.push_back(1.0 - at(t).alpha_bar / previous);
    timesteps.push_back(at(t).timestep);
    previous = at(t).alpha_bar;
  }
  return Diffusion(options_, betas, timesteps);
}

const DiffusionStep& Diffusion::at(int64_t t) const {
  CHECK(t >= 0 && t < steps()) << "t = " << t << " of " << steps() << " steps";
  return table_[t];
}

Diffusion::PredictedX0 Diffusion::predicted_x0(int64_t t) const {
  const DiffusionStep& step = at(t);
  switch (options_.prediction) {
    case Prediction::kEpsilon:
      return {1.0 / step.sqrt_alpha_bar, -step.sqrt_one_minus_alpha_bar / step.sqrt_alpha_bar};
    case Prediction::kX0:
      return {0.0, 1.0};
    case Prediction::kV:
      return {step.sqrt_alpha_bar, -step.sqrt_one_minus_alpha_bar};
  }
  CHECK(false) << "prediction " << static_cast<int>(options_.prediction);
  return {};
}

Diffusion::Target Diffusion::target(int64_t t) const {
  const DiffusionStep& step = at(t);
  switch (options_.prediction) {
    case Prediction::kEpsilon:
      return {0.0, 1.0};
    case Prediction::kX0:
      return {1.0, 0.0};
    case Prediction::kV:
      return {-step.sqrt_one_minus_alpha_bar, step.sqrt_alpha_bar};
  }
  CHECK(false) << "prediction " << static_cast<int>(options_.prediction);
  return {};
}

void Diffusion::AddNoise(int64_t t, const float* x_0, const float* noise, int64_t count, float* x_t) const {
  const double a = at(t).sqrt_alpha_bar, b = at(t).sqrt_one_minus_alpha_bar;
  for (int64_t i = 0; i < count; ++i) x_t[i] = static_cast<float>(a * x_0[i] + b * noise[i]);
}

int64_t Diffusion::DrawTimestep(uint64_t seed, int64_t position) const { return TimestepAt(seed, position, steps()); }

std::vector<int64_t> KeptSteps(int64_t steps, int64_t n) {
  CHECK(n >= 2 && n <= steps) << n << " of " << steps << " steps";
  std::vector<int64_t> kept(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t whole = i * (steps - 1) / (n - 1), rest = i * (steps - 1) % (n - 1);
    const bool up = 2 * rest > n - 1 || (2 * rest == n - 1 && whole % 2 == 1);
    kept[i] = whole + (up ? 1 : 0);
  }
  return kept;
}

void DrawNoise(uint64_t seed, int64_t position, int64_t count, float* out) {
  FillNormal(NoiseKey(seed, position), 0, count, out);
}

bool DrawLabelDrop(uint64_t seed, int64_t position, float probability) {
  return LabelDroppedAt(seed, position, probability);
}

}  // namespace shardit
