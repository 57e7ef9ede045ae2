#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/tensor/rng.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

DitConfig SmallConfig(bool learn_sigma) {
  DitConfig config;
  config.depth = 1, config.width = 4, config.heads = 1, config.patch = 1;
  config.channels = 4, config.side = 3, config.classes = 10, config.learn_sigma = learn_sigma;
  return config;
}

Sampler MakeSampler(const DiffusionOptions& process, const SamplerOptions& options) {
  absl::StatusOr<Sampler> sampler = Sampler::Create(Diffusion(process), SmallConfig(process.learn_sigma), options);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

// A stand-in whose output depends on everything it is given, image by image.
void StandIn(const float* x, const int64_t* t, const int32_t* y, int64_t n, int64_t in, int64_t out, float* output) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < out; ++j) {
      output[i * out + j] = std::sin(0.9f * x[i * in + j % in] + 0.003f * static_cast<float>(t[i]) +
                                     0.5f * static_cast<float>(y[i]) + 0.1f * static_cast<float>(j));
    }
  }
}

SampledModel StandInModel(const Sampler& sampler, bool learn_sigma) {
  const int64_t in = sampler.latent_elements(), out = learn_sigma ? 2 * in : in;
  return [in, out](const float* x, const int64_t* t, const int32_t* y, int64_t n, float* output) {
    StandIn(x, t, y, n, in, out, output);
  };
}

// p_sample and ddim_sample of the published code, one element, in long double.
struct Reference {
  Reference(const DiffusionOptions& process, int64_t kept_steps) : options(process) {
    const Diffusion trained(process);
    for (const int64_t t : KeptSteps(process.steps, kept_steps)) {
      timestep.push_back(t);
      ab.push_back(trained.at(t).alpha_bar);
    }
  }
  long double Previous(int64_t k) const { return k == 0 ? 1.0L : ab[k - 1]; }
  long double Beta(int64_t k) const { return 1 - ab[k] / Previous(k); }
  long double PosteriorLogVariance(int64_t k) const {
    const int64_t j = k == 0 ? 1 : k;
    return std::log(Beta(j) * (1 - Previous(j)) / (1 - ab[j]));
  }
  long double X0(int64_t k, long double x, long double output) const {
    switch (options.prediction) {
      case Prediction::kEpsilon:
        return std::sqrt(1 / ab[k]) * x - std::sqrt(1 / ab[k] - 1) * output;
      case Prediction::kX0:
        return output;
      case Prediction::kV:
        return std::sqrt(ab[k]) * x - std::sqrt(1 - ab[k]) * output;
    }
    return 0;
  }
  long double Ddpm(int64_t k, long double x, long double output, long double value, long double noise) const {
    const long double beta = Beta(k), previous = Previous(k);
    const long double mean = beta * std::sqrt(previous) / (1 - ab[k]) * X0(k, x, output) +
                             (1 - previous) * std::sqrt(1 - beta) / (1 - ab[k]) * x;
    const long double frac = (value + 1) / 2;
    long double log_variance = frac * std::log(beta) + (1 - frac) * PosteriorLogVariance(k);
    if (!options.learn_sigma) log_variance = k == 0 ? PosteriorLogVariance(0) : std::log(beta);
    return k == 0 ? mean : mean + std::exp(log_variance / 2) * noise;
  }
  long double Ddim(int64_t k, long double x, long double output, long double eta, long double noise) const {
    const long double start = X0(k, x, output), previous = Previous(k);
    const long double epsilon = (std::sqrt(1 / ab[k]) * x - start) / std::sqrt(1 / ab[k] - 1);
    const long double sigma = eta * std::sqrt((1 - previous) / (1 - ab[k])) * std::sqrt(1 - ab[k] / previous);
    return std::sqrt(previous) * start + std::sqrt(1 - previous - sigma * sigma) * epsilon +
           (k == 0 ? 0 : sigma * noise);
  }
  DiffusionOptions options;
  std::vector<int64_t> timestep;
  std::vector<long double> ab;
};

TEST(Sampler, StepsEqualThePublishedFormulas) {
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
    for (const bool learn_sigma : {true, false}) {
      const DiffusionOptions process{.prediction = prediction, .learn_sigma = learn_sigma};
      const Sampler ddpm = MakeSampler(process, {.steps = 50});
      const Sampler ddim = MakeSampler(process, {.kind = SamplerKind::kDdim, .steps = 50, .eta = 0.7});
      const Reference reference(process, 50);
      const int64_t m = ddpm.latent_elements();
      std::vector<float> x(m), output(2 * m), noise(m), got(m);
      FillNormal({1}, 0, m, x.data()), FillNormal({2}, 0, 2 * m, output.data()), FillNormal({3}, 0, m, noise.data());
      for (int64_t k = 0; k < 50; ++k) {
        SCOPED_TRACE(testing::Message() << Name(prediction) << " learned " << learn_sigma << " step " << k);
        EXPECT_EQ(ddpm.process().at(k).timestep, reference.timestep[k]);
        const auto compare = [&](int64_t i, long double expected) {
          EXPECT_NEAR(got[i], (double)expected, 1e-7 * std::abs((double)expected) + 1e-12) << i;
        };
        ddpm.Step(k, x.data(), output.data(), noise.data(), got.data());
        for (int64_t i = 0; i < m; ++i) compare(i, reference.Ddpm(k, x[i], output[i], output[m + i], noise[i]));
        ddim.Step(k, x.data(), output.data(), noise.data(), got.data());
        for (int64_t i = 0; i < m; ++i) compare(i, reference.Ddim(k, x[i], output[i], 0.7L, noise[i]));
      }
    }
  }
}

TEST(Sampler, WholeLoopEqualsAPlainOne) {
  for (const SamplerKind kind : {SamplerKind::kDdpm, SamplerKind::kDdim}) {
    for (const bool all_channels : {false, true}) {
      const SamplerOptions options{
          .kind = kind, .steps = 10, .eta = 0.5, .cfg_scale = 1.5, .guide_all_channels = all_channels, .seed = 4};
      const Sampler sampler = MakeSampler({}, options);
      const Reference reference({}, 10);
      const int64_t m = sampler.latent_elements(), sample = 12;
      const int32_t label[1] = {3}, null_label[1] = {10};
      ASSERT_EQ(m, 36);

      std::vector<float> x(m), noise(m), with(2 * m), without(2 * m);
      FillNormal({4, RngPurpose::kSampler, 12}, 0, m, x.data());
      for (int64_t k = 9; k >= 0; --k) {
        const int64_t t[1] = {reference.timestep[k]};
        StandIn(x.data(), t, label, 1, m, 2 * m, with.data());
        StandIn(x.data(), t, null_label, 1, m, 2 * m, without.data());
        FillNormal({4, RngPurpose::kSampler, 12}, (10 - k) * m, m, noise.data());
        for (int64_t i = 0; i < m; ++i) {
          const bool guided = all_channels || i < 27;  // three channels of 3 x 3
          const float output = guided ? without[i] + 1.5f * (with[i] - without[i]) : with[i];
          x[i] = static_cast<float>(kind == SamplerKind::kDdpm ? reference.Ddpm(k, x[i], output, with[m + i], noise[i])
                                                               : reference.Ddim(k, x[i], output, 0.5L, noise[i]));
        }
      }
      ThreadPool pool(1);
      std::vector<float> got(m);
      sampler.Sample(StandInModel(sampler, true), {&sample, 1}, label, pool, got.data());
      for (int64_t i = 0; i < m; ++i) EXPECT_NEAR(got[i], x[i], 1e-5 * std::abs(x[i]) + 1e-5) << Name(kind) << " " << i;
    }
  }
}

TEST(Sampler, SampleDependsOnSeedIndexAndLabelOnly) {
  const Sampler sampler = MakeSampler({}, {.steps = 5, .cfg_scale = 2, .seed = 9});
  const SampledModel model = StandInModel(sampler, true);
  const int64_t m = sampler.latent_elements();
  ThreadPool one(1), three(3);
  const std::vector<int64_t> indices = {0, 1, 2, 3, 4}, shuffled = {4, 2}, alone = {2};
  const std::vector<int32_t> labels = {5, 6, 7, 8, 10}, shuffled_labels = {10, 7}, alone_label = {7}, other = {8};
  std::vector<float> all(5 * m), threaded(5 * m), pair(2 * m), single(m), relabelled(m);
  sampler.Sample(model, indices, labels, one, all.data());
  sampler.Sample(model, indices, labels, three, threaded.data());
  sampler.Sample(model, shuffled, shuffled_labels, one, pair.data());
  sampler.Sample(model, alone, alone_label, one, single.data());
  sampler.Sample(model, alone, other, one, relabelled.data());
  EXPECT_EQ(all, threaded);
  EXPECT_TRUE(std::equal(pair.begin() + m, pair.end(), single.begin()));
  EXPECT_TRUE(std::equal(single.begin(), single.end(), all.begin() + 2 * m));
  EXPECT_TRUE(std::equal(pair.begin(), pair.begin() + m, all.begin() + 4 * m));
  EXPECT_NE(single, relabelled);

  std::vector<float> reseeded(m);
  MakeSampler({}, {.steps = 5, .cfg_scale = 2, .seed = 10}).Sample(model, alone, alone_label, one, reseeded.data());
  EXPECT_NE(single, reseeded);
}

TEST(Sampler, UnguidedCallsTheModelOnceAnImage) {
  for (const double scale : {1.0, 1.5}) {
    const Sampler sampler = MakeSampler({}, {.steps = 250, .cfg_scale = scale});
    const SampledModel inner = StandInModel(sampler, true);
    std::vector<int64_t> seen;
    const SampledModel model = [&](const float* x, const int64_t* t, const int32_t* y, int64_t n, float* out) {
      EXPECT_EQ(n, scale == 1.0 ? 2 : 4);
      EXPECT_EQ(y[1], 1);
      EXPECT_EQ(y[n - 1], n == 4 ? 10 : 1);
      for (int64_t i = 1; i < n; ++i) EXPECT_EQ(t[i], t[0]);
      seen.push_back(t[0]);
      inner(x, t, y, n, out);
    };
    const std::vector<int64_t> samples = {0, 1};
    const std::vector<int32_t> labels = {0, 1};
    std::vector<float> out(2 * sampler.latent_elements());
    ThreadPool pool(1);
    sampler.Sample(model, samples, labels, pool, out.data());
    std::vector<int64_t> expected = KeptSteps(1000, 250);
    std::reverse(expected.begin(), expected.end());
    EXPECT_EQ(seen, expected);  // the trained steps' own numbers, last first
  }
}

// A model that knows the answer: both samplers end on it, whatever the noise on the way.
TEST(Sampler, PerfectModelLeadsToItsTarget) {
  for (const SamplerKind kind : {SamplerKind::kDdpm, SamplerKind::kDdim}) {
    const DiffusionOptions process{.prediction = Prediction::kX0, .learn_sigma = false};
    const Sampler sampler = MakeSampler(process, {.kind = kind, .steps = 20});
    const SampledModel model = [](const float*, const int64_t*, const int32_t*, int64_t n, float* out) {
      std::fill(out, out + n * 36, 0.625f);
    };
    const int64_t sample = 3;
    const int32_t label = 0;
    std::vector<float> out(36);
    ThreadPool pool(1);
    sampler.Sample(model, {&sample, 1}, {&label, 1}, pool, out.data());
    for (const float x : out) EXPECT_NEAR(x, 0.625f, 1e-6);
  }
}

TEST(Sampler, BytesTruncateAndClamp) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const float values[] = {-1.0f, 0.0f, 1.0f, 0.996f, -1.004f, 5.0f, -5.0f, 0.01f, nan, inf, -inf};
  const uint8_t expected[] = {0, 128, 255, 254, 0, 255, 0, 129, 0, 255, 0};
  uint8_t got[11];
  ToUint8(values, 11, got);
  for (int i = 0; i < 11; ++i) EXPECT_EQ(got[i], expected[i]) << values[i];
}

TEST(Sampler, OptionsAreChecked) {
  const Diffusion trained({});
  const struct {
    SamplerOptions options;
    const char* message;
  } cases[] = {
      {{.steps = 1}, "sampling steps: expected 2 to the model's 1000 diffusion steps, got 1; change --steps"},
      {{.steps = 1001}, "got 1001"},
      {{.eta = 1.5}, "DDIM eta: expected 0 to 1, got 1.5"},
      {{.cfg_scale = -1}, "guidance scale"},
      {{.cfg_scale = std::numeric_limits<double>::infinity()}, "guidance scale"},
  };
  for (const auto& test : cases) {
    const absl::Status status = Sampler::Create(trained, SmallConfig(true), test.options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(test.message), absl::string_view::npos) << status;
  }
  EXPECT_EQ(*ParseSamplerKind("ddim"), SamplerKind::kDdim);
  EXPECT_FALSE(ParseSamplerKind("DDIM").ok());
}

}  // namespace
}  // namespace shardit
