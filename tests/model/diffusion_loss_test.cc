#include "model/diffusion_loss.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/base/simd_targets.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

constexpr long double kLn2 = 0.69314718055994530942L;
constexpr long double kSqrt2OverPi = 0.79788456080286535588L;

long double CubicArgument(long double x) { return kSqrt2OverPi * (x + 0.044715L * x * x * x); }

// log(max(probability, 1e-12)) of x_0's bin. tanh a - tanh b = sinh(a - b) / (cosh a cosh b): another way than the
// product's to keep the digits.
long double BinLogProbability(long double x_0, long double mean, long double log_variance) {
  const long double inverse_sigma = std::exp(-log_variance / 2), floor = std::log(1e-12L);
  const long double a = CubicArgument(inverse_sigma * (x_0 - mean + 1 / 255.0L));
  const long double b = CubicArgument(inverse_sigma * (x_0 - mean - 1 / 255.0L));
  if (x_0 < -0.999L) return std::max(floor, -std::log1p(std::exp(-2 * a)));
  if (x_0 > 0.999L) return std::max(floor, -std::log1p(std::exp(2 * b)));
  return std::max(floor, std::log(0.5L * std::sinh(a - b)) - std::log(std::cosh(a)) - std::log(std::cosh(b)));
}

// The variational bound of one element in bits, as gaussian_diffusion.py writes it, in long double.
long double ReferenceVb(const Diffusion& diffusion, int64_t t, float x_0, float noise, float prediction,
                        long double value) {
  const DiffusionStep& step = diffusion.at(t);
  const long double ab = step.alpha_bar, beta = step.beta, previous = step.alpha_bar_prev;
  const long double x_t = std::sqrt(ab) * x_0 + std::sqrt(1 - ab) * noise;
  const auto posterior_mean = [&](long double start) {
    return (beta * std::sqrt(previous) * start + (1 - previous) * std::sqrt(1 - beta) * x_t) / (1 - ab);
  };
  long double start = prediction;
  if (diffusion.options().prediction == Prediction::kEpsilon) {
    start = (x_t - std::sqrt(1 - ab) * prediction) / std::sqrt(ab);
  } else if (diffusion.options().prediction == Prediction::kV) {
    start = std::sqrt(ab) * x_t - std::sqrt(1 - ab) * prediction;
  }
  const long double frac = (value + 1) / 2;
  const long double true_log_variance = step.posterior_log_variance;
  const long double log_variance = frac * std::log(beta) + (1 - frac) * true_log_variance;
  const long double mean = posterior_mean(start);
  if (t == 0) return -BinLogProbability(x_0, mean, log_variance) / kLn2;
  const long double difference = posterior_mean(x_0) - mean;
  return 0.5L *
         (-1 + log_variance - true_log_variance + std::exp(true_log_variance - log_variance) +
          difference * difference * std::exp(-log_variance)) /
         kLn2;
}

// Central difference of fourth order: its error is about h^4 = 1e-12 of the derivative's scale.
long double ReferenceVbSlope(const Diffusion& diffusion, int64_t t, float x_0, float noise, float prediction,
                             long double value) {
  const long double h = 1e-3L;
  const auto f = [&](long double v) { return ReferenceVb(diffusion, t, x_0, noise, prediction, v); };
  return (8 * (f(value + h) - f(value - h)) - (f(value + 2 * h) - f(value - 2 * h))) / (12 * h);
}

// A batch with an odd number of elements, so that every instruction set has a partial last vector.
struct Batch {
  explicit Batch(const Diffusion& process, std::vector<int64_t> timesteps, int64_t elements_per_image = 147)
      : diffusion(process), t(std::move(timesteps)), elements(elements_per_image) {
    const int64_t count = images() * elements, outputs = count * planes();
    x_0.resize(count), noise.resize(count), output.resize(outputs), d_output.resize(outputs);
    per_image.resize(t.size());
    FillNormal({1, RngPurpose::kTest, 1}, 0, count, x_0.data());
    FillNormal({1, RngPurpose::kTest, 2}, 0, count, noise.data());
    FillNormal({1, RngPurpose::kTest, 3}, 0, outputs, output.data());
  }

  int64_t images() const { return static_cast<int64_t>(t.size()); }
  int64_t planes() const { return diffusion.options().learn_sigma ? 2 : 1; }
  float* prediction(int64_t n) { return output.data() + n * planes() * elements; }
  float* value(int64_t n) { return prediction(n) + elements; }
  float* d_prediction(int64_t n) { return d_output.data() + n * planes() * elements; }
  float* d_value(int64_t n) { return d_prediction(n) + elements; }

  DiffusionLossArgs Args() {
    return {.images = images(),
            .elements = elements,
            .t = t.data(),
            .x_0 = x_0.data(),
            .noise = noise.data(),
            .output = output.data(),
            .denominator = static_cast<double>(images()),
            .d_output = d_output.data(),
            .grad_scale = 1,
            .per_image = per_image};
  }

  LossResult Run(int threads = 1) {
    ThreadPool pool(threads);
    return DiffusionLoss(diffusion, Args(), pool);
  }

  const Diffusion& diffusion;
  std::vector<int64_t> t;
  int64_t elements;
  std::vector<float> x_0, noise, output, d_output;
  std::vector<ImageLoss> per_image;
};

void ExpectRelative(double got, long double want, double tolerance, const char* what, int64_t t, int64_t i) {
  EXPECT_LE(std::abs(static_cast<double>(got - want)), tolerance * std::abs(static_cast<double>(want)) + 1e-30)
      << what << " t " << t << " element " << i << ": " << got << " vs " << static_cast<double>(want);
}

class DiffusionLossOnTarget : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};
INSTANTIATE_TEST_SUITE_P(Targets, DiffusionLossOnTarget, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

// Loss to 1e-12 and gradient to fp32's rounding, over every kind of prediction.
TEST_P(DiffusionLossOnTarget, EqualsLongDoubleReference) {
  for (const Prediction kind : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
    SCOPED_TRACE(Name(kind));
    const Diffusion diffusion({.prediction = kind});
    Batch batch(diffusion, {0, 1, 2, 500, 999, 0});
    for (float& x : batch.output) x *= 0.3f;
    // The last image is at t = 0 with predictions near the truth: bins inside, open on both sides, and on their edges.
    const float special[] = {-0.999f, 0.999f, -1.0f, 1.0f, -1.5f, 1.5f, 0.0f};
    for (int i = 0; i < 7; ++i) batch.x_0[5 * 147 + i] = special[i];
    for (int64_t i = 0; i < 147; ++i) {
      const auto target = diffusion.target(0);
      const int64_t at = 5 * 147 + i;
      batch.prediction(5)[i] =
          static_cast<float>(target.x_0 * batch.x_0[at] + target.noise * batch.noise[at] +
                             0.02 * (static_cast<double>(i % 21) - 10) * (kind == Prediction::kX0 ? 0.1 : 10));
    }
    ThreadPool pool(1);
    DiffusionLossArgs args = batch.Args();
    args.denominator = 17;
    args.grad_scale = 3;
    const LossResult result = DiffusionLoss(diffusion, args, pool);

    const long double scale = 3.0L / (17 * 147);
    long double mse_total = 0, vb_total = 0;
    for (int64_t n = 0; n < batch.images(); ++n) {
      const int64_t t = batch.t[n];
      long double mse = 0, vb = 0;
      for (int64_t i = 0; i < 147; ++i) {
        const float x_0 = batch.x_0[n * 147 + i], noise = batch.noise[n * 147 + i];
        const float prediction = batch.prediction(n)[i], value = batch.value(n)[i];
        const long double ab = diffusion.at(t).alpha_bar;
        const long double target = kind == Prediction::kEpsilon ? noise
                                   : kind == Prediction::kX0    ? x_0
                                                                : std::sqrt(ab) * noise - std::sqrt(1 - ab) * x_0;
        mse += (prediction - target) * (prediction - target);
        vb += ReferenceVb(diffusion, t, x_0, noise, prediction, value);
        ExpectRelative(batch.d_prediction(n)[i], 2 * (prediction - target) * scale, 1e-7, "d_prediction", t, i);
        const long double slope = ReferenceVbSlope(diffusion, t, x_0, noise, prediction, value) * scale;
        EXPECT_NEAR(batch.d_value(n)[i], static_cast<double>(slope),
                    1e-7 * std::abs(static_cast<double>(slope)) + 1e-10 * static_cast<double>(scale))
            << "d_value t " << t << " element " << i;
      }
      ExpectRelative(batch.per_image[n].mse, mse / 147, 1e-12, "mse", t, -1);
      ExpectRelative(batch.per_image[n].vb, vb / 147, 1e-12, "vb", t, -1);
      mse_total += mse / 147, vb_total += vb / 147;
    }
    EXPECT_NEAR(result.mse, static_cast<double>(mse_total / 17), 1e-12 * result.mse);
    EXPECT_NEAR(result.vb, static_cast<double>(vb_total / 17), 1e-12 * result.vb);
    EXPECT_EQ(result.loss, result.mse + result.vb);
  }
}

// One element whose mean is the output itself (x_0 prediction at t = 0), so that the distance is what the test says.
struct OneElement {
  explicit OneElement(int64_t timestep, float x_0, float mean, float value)
      : diffusion({.prediction = Prediction::kX0}), batch(diffusion, {timestep}, 1) {
    batch.x_0[0] = x_0;
    batch.prediction(0)[0] = mean;
    batch.value(0)[0] = value;
    vb = batch.Run().vb;
    slope = batch.d_value(0)[0];
  }
  Diffusion diffusion;
  Batch batch;
  double vb;
  double slope;
};

// The sinh form of the reference against the formula as published, where that still has its digits.
TEST(DiffusionLoss, FirstStepEqualsThePublishedForm) {
  for (const float distance : {0.0f, 0.001f, -0.004f, 0.01f, -0.015f}) {
    const OneElement element(0, 0.25f, 0.25f - distance, 0.3f);
    const DiffusionStep& step = element.diffusion.at(0);
    const long double frac = (1 + (long double)0.3f) / 2;
    const long double log_variance = frac * step.log_beta + (1 - frac) * step.posterior_log_variance;
    const auto cdf = [&](long double edge) {
      return 0.5L * (1 + std::tanh(CubicArgument(std::exp(-log_variance / 2) * edge)));
    };
    const long double centered = 0.25L - (long double)step.posterior_x0 * (0.25f - distance);
    const long double expected = -std::log(cdf(centered + 1 / 255.0L) - cdf(centered - 1 / 255.0L)) / kLn2;
    EXPECT_NEAR(element.vb, static_cast<double>(expected), 1e-13) << distance;
  }
}

// Down to the clamp, where the plain difference of CDFs has few digits left in fp64 and none in fp32.
TEST_P(DiffusionLossOnTarget, FirstStepKeepsItsDigitsInTheTails) {
  int inside = 0;
  for (int i = -70; i <= 70; ++i) {
    for (const float x_0 : {0.1f, -1.2f, 1.2f}) {
      const float mean = x_0 - 0.001f * static_cast<float>(i);
      const OneElement element(0, x_0, mean, 0.0f);
      const float noise = element.batch.noise[0];
      const double expected = static_cast<double>(ReferenceVb(element.diffusion, 0, x_0, noise, mean, 0));
      EXPECT_NEAR(element.vb, expected, 1e-13 * expected + 1e-15) << x_0 << " " << i;
      const long double above = ReferenceVb(element.diffusion, 0, x_0, noise, mean, 2e-3L);
      const long double floor = -std::log(1e-12L) / kLn2;
      if (above < floor && ReferenceVb(element.diffusion, 0, x_0, noise, mean, -2e-3L) < floor) {
        ++inside;
        const long double slope = ReferenceVbSlope(element.diffusion, 0, x_0, noise, mean, 0);
        EXPECT_NEAR(element.slope, (double)slope, 1e-7 * std::abs((double)slope) + 1e-11) << x_0 << " " << i;
      }
    }
  }
  EXPECT_GT(inside, 250);
}

TEST_P(DiffusionLossOnTarget, BelowTheClampIsConstant) {
  for (const float x_0 : {0.1f, -1.2f, 1.2f}) {
    // An open bin is improbable only if the mean lies on its other side.
    const OneElement element(0, x_0, x_0 < -0.999f ? x_0 + 0.2f : x_0 - 0.2f, 0.0f);
    EXPECT_NEAR(element.vb, std::log(1e12) / std::log(2.0), 1e-12) << x_0;
    EXPECT_EQ(element.slope, 0) << x_0;
  }
}

TEST(DiffusionLoss, KlIsZeroWhereModelAndPosteriorAgree) {
  for (const int64_t t : {1, 500, 999}) {
    const OneElement element(t, 0.4f, 0.4f, -1.0f);  // frac 0: the posterior's own variance
    EXPECT_EQ(element.vb, 0) << t;
    EXPECT_EQ(element.slope, 0) << t;
  }
}

TEST(DiffusionLoss, ZeroOutputMeansHalfTheVarianceFraction) {
  for (const int64_t t : {1, 10, 999}) {
    const OneElement element(t, 0.0f, 0.0f, 0.0f);
    const DiffusionStep& step = element.diffusion.at(t);
    const double z = (step.log_beta - step.posterior_log_variance) / 2;
    EXPECT_NEAR(element.vb, 0.5 * (z - 1 + std::exp(-z)) / std::log(2.0), 1e-15) << t;
    EXPECT_NEAR(element.slope, 0.5 * (1 - std::exp(-z)) * z / std::log(2.0), 1e-7 * z) << t;
  }
}

TEST_P(DiffusionLossOnTarget, SameBitsForAnyThreadsAndAnyMicroBatches) {
  const Diffusion diffusion({});
  Batch one(diffusion, {5, 0, 999, 321, 700, 0, 2}), three = one;
  const LossResult whole = one.Run(1), threaded = three.Run(3);
  EXPECT_EQ(whole.loss, threaded.loss);
  EXPECT_EQ(whole.vb, threaded.vb);
  EXPECT_EQ(one.d_output, three.d_output);

  ThreadPool pool(1);
  Batch cut = one;
  std::fill(cut.d_output.begin(), cut.d_output.end(), 0.0f);
  double sum = 0;
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 3}, {3, 4}}) {
    DiffusionLossArgs args = cut.Args();
    args.images = count;
    args.t += begin;
    args.x_0 += begin * cut.elements, args.noise += begin * cut.elements;
    args.output += 2 * begin * cut.elements, args.d_output += 2 * begin * cut.elements;
    args.per_image = args.per_image.subspan(begin, count);
    sum += DiffusionLoss(diffusion, args, pool).loss;
  }
  EXPECT_NEAR(sum, whole.loss, 1e-14 * whole.loss);
  EXPECT_EQ(cut.d_output, one.d_output);
  for (size_t n = 0; n < one.per_image.size(); ++n) EXPECT_EQ(cut.per_image[n].loss(), one.per_image[n].loss());
}

TEST(DiffusionLoss, GradientMayBeLeftOutOrReplaceTheOutput) {
  const Diffusion diffusion({});
  Batch batch(diffusion, {0, 400});
  const LossResult full = batch.Run();
  ThreadPool pool(1);
  DiffusionLossArgs args = batch.Args();
  args.d_output = nullptr;
  EXPECT_EQ(DiffusionLoss(diffusion, args, pool).loss, full.loss);
  args.d_output = batch.output.data();
  EXPECT_EQ(DiffusionLoss(diffusion, args, pool).loss, full.loss);
  EXPECT_EQ(batch.output, batch.d_output);
}

TEST(DiffusionLoss, WithoutLearnedSigmaThereIsNoVb) {
  const Diffusion diffusion({.learn_sigma = false});
  Batch batch(diffusion, {0, 400});
  const LossResult result = batch.Run();
  EXPECT_EQ(result.vb, 0);
  EXPECT_EQ(result.loss, result.mse);
  double mse = 0;
  for (size_t i = 0; i < batch.output.size(); ++i) {
    const double error = double{batch.output[i]} - batch.noise[i];
    mse += error * error / static_cast<double>(batch.output.size());
    ExpectRelative(batch.d_output[i], 2 * error / static_cast<double>(batch.output.size()), 1e-7, "d_output", 0, i);
  }
  EXPECT_NEAR(result.mse, mse, 1e-13 * mse);
}

TEST_P(DiffusionLossOnTarget, NotANumberIsNotLost) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t t : {0, 5}) {
    for (const float x_0 : {0.0f, -2.0f, 2.0f}) {
      const OneElement value(t, x_0, x_0, nan), prediction(t, x_0, nan, 0.0f);
      EXPECT_TRUE(std::isnan(value.vb)) << t << " " << x_0;
      EXPECT_TRUE(std::isnan(value.slope)) << t << " " << x_0;
      EXPECT_TRUE(std::isnan(prediction.vb)) << t << " " << x_0;
      EXPECT_TRUE(std::isnan(prediction.slope)) << t << " " << x_0;
    }
  }
}

}  // namespace
}  // namespace shardit
