#include "model/diffusion.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace shardit {
namespace {

// ab as a long double product over the schedule's definition, written apart from the product's tables.
std::vector<long double> ReferenceAlphaBar(NoiseSchedule schedule, int64_t steps) {
  std::vector<long double> alpha_bar(steps);
  const auto f = [&](int64_t i) {
    const long double c = std::cos(((long double)i / steps + 0.008L) / 1.008L * 3.14159265358979323846L / 2);
    return c * c;
  };
  long double product = 1;
  for (int64_t t = 0; t < steps; ++t) {
    const long double beta = schedule == NoiseSchedule::kLinear
                                 ? (1000.0L / steps) * (1e-4L + (0.02L - 1e-4L) * t / (steps - 1))
                                 : std::min(1 - f(t + 1) / f(t), 0.999L);
    product *= 1 - beta;
    alpha_bar[t] = product;
  }
  return alpha_bar;
}

TEST(Diffusion, PublishedFiguresOfTheLinearSchedule) {
  const Diffusion diffusion({});
  ASSERT_EQ(diffusion.steps(), 1000);
  EXPECT_NEAR(diffusion.at(0).alpha_bar, 0.9999, 1e-15);
  EXPECT_NEAR(diffusion.at(999).alpha_bar, 4.0358e-5, 5e-10);
  EXPECT_NEAR(diffusion.at(0).posterior_log_variance, -9.8167, 5e-5);
  EXPECT_EQ(diffusion.at(0).posterior_log_variance, diffusion.at(1).posterior_log_variance);
  EXPECT_EQ(diffusion.at(0).fixed_log_variance, diffusion.at(1).posterior_log_variance);
  EXPECT_EQ(diffusion.at(0).posterior_variance, 0);
  EXPECT_NEAR(diffusion.at(0).posterior_x0, 1, 1e-12);
  EXPECT_EQ(diffusion.at(0).posterior_xt, 0);
  EXPECT_EQ(diffusion.at(999).fixed_log_variance, std::log(0.02));
}

TEST(Diffusion, TablesFollowTheDefinitions) {
  for (const NoiseSchedule schedule : {NoiseSchedule::kLinear, NoiseSchedule::kCosine}) {
    for (const int64_t steps : {21, 100, 1000}) {
      const Diffusion diffusion({.steps = steps, .schedule = schedule});
      const std::vector<long double> ab = ReferenceAlphaBar(schedule, steps);
      for (int64_t t = 0; t < steps; ++t) {
        const DiffusionStep& step = diffusion.at(t);
        const long double previous = t == 0 ? 1 : ab[t - 1], beta = 1 - ab[t] / previous;
        const auto near = [&](double got, long double want) {
          EXPECT_NEAR(got, (double)want, 1e-10 * std::abs((double)want) + 1e-15) << Name(schedule) << " t " << t;
        };
        EXPECT_EQ(step.timestep, t);
        near(step.alpha_bar, ab[t]);
        near(step.alpha_bar_prev, previous);
        near(step.beta, beta);
        near(step.sqrt_alpha_bar, std::sqrt(ab[t]));
        near(step.sqrt_one_minus_alpha_bar, std::sqrt(1 - ab[t]));
        near(step.posterior_x0, std::sqrt(previous) * beta / (1 - ab[t]));
        near(step.posterior_xt, std::sqrt(1 - beta) * (1 - previous) / (1 - ab[t]));
        near(step.posterior_variance, beta * (1 - previous) / (1 - ab[t]));
        near(step.log_beta, std::log(beta));
        if (t > 0) near(step.posterior_log_variance, std::log(beta * (1 - previous) / (1 - ab[t])));
        EXPECT_EQ(step.fixed_log_variance, t > 0 ? step.log_beta : step.posterior_log_variance);
      }
    }
  }
}

// With a perfect model, the implied x_0 is the true one, for every kind of prediction.
TEST(Diffusion, PredictionFormsInvertTheNoising) {
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
    const Diffusion diffusion({.prediction = prediction});
    for (const int64_t t : {0, 1, 500, 999}) {
      const double x_0 = 0.7, noise = -1.3;
      const double x_t = diffusion.at(t).sqrt_alpha_bar * x_0 + diffusion.at(t).sqrt_one_minus_alpha_bar * noise;
      const auto target = diffusion.target(t);
      const auto form = diffusion.predicted_x0(t);
      const double output = target.x_0 * x_0 + target.noise * noise;
      EXPECT_NEAR(form.x_t * x_t + form.output * output, x_0, 1e-11) << Name(prediction) << " t " << t;
    }
  }
}

TEST(Diffusion, AddNoiseRoundsOnce) {
  const Diffusion diffusion({});
  const float x_0[3] = {1.0f, -2.5f, 1e-3f}, noise[3] = {0.5f, 3.0f, -1e3f};
  for (const int64_t t : {0, 37, 999}) {
    float x_t[3];
    diffusion.AddNoise(t, x_0, noise, 3, x_t);
    const long double ab = ReferenceAlphaBar(NoiseSchedule::kLinear, 1000)[t];
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(x_t[i], (float)(std::sqrt(ab) * x_0[i] + std::sqrt(1 - ab) * noise[i])) << t << " " << i;
    }
  }
}

TEST(Diffusion, KeptStepsRoundHalfToEven) {
  const std::vector<int64_t> kept = KeptSteps(1000, 250);
  ASSERT_EQ(kept.size(), 250u);
  for (int64_t i = 0; i < 250; ++i) EXPECT_EQ(kept[i], std::llrint(static_cast<double>(i * 999) / 249.0)) << i;
  EXPECT_EQ(KeptSteps(1000, 3), (std::vector<int64_t>{0, 500, 999}));  // 499.5 goes up to the even 500
  EXPECT_EQ(KeptSteps(998, 3), (std::vector<int64_t>{0, 498, 997}));   // 498.5 goes down to the even 498
  EXPECT_EQ(KeptSteps(4, 4), (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(KeptSteps(1000, 2), (std::vector<int64_t>{0, 999}));
}

TEST(Diffusion, RespacingKeepsTheMarginals) {
  const Diffusion diffusion({.schedule = NoiseSchedule::kCosine});
  const std::vector<int64_t> kept = KeptSteps(1000, 50);
  const Diffusion respaced = diffusion.Respaced(kept);
  ASSERT_EQ(respaced.steps(), 50);
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(respaced.at(i).timestep, kept[i]);
    EXPECT_NEAR(respaced.at(i).alpha_bar, diffusion.at(kept[i]).alpha_bar, 1e-10 * diffusion.at(kept[i]).alpha_bar);
  }
  EXPECT_EQ(respaced.at(0).posterior_log_variance, std::log(respaced.at(1).posterior_variance));
}

TEST(Diffusion, DrawsAreFunctionsOfSeedAndPosition) {
  const Diffusion diffusion({.steps = 100});
  int64_t dropped = 0;
  double sum = 0;
  bool ends[2] = {false, false};
  for (int64_t position = 0; position < 20000; ++position) {
    const int64_t t = diffusion.DrawTimestep(7, position);
    ASSERT_TRUE(t >= 0 && t < 100);
    ends[0] |= t == 0, ends[1] |= t == 99;
    sum += static_cast<double>(t);
    dropped += DrawLabelDrop(7, position, 0.1f);
    EXPECT_FALSE(DrawLabelDrop(7, position, 0.0f));
    EXPECT_TRUE(DrawLabelDrop(7, position, 1.0f));
  }
  EXPECT_TRUE(ends[0] && ends[1]);
  EXPECT_NEAR(sum / 20000, 49.5, 5 * 28.9 / std::sqrt(20000));
  EXPECT_NEAR(dropped, 2000, 5 * std::sqrt(20000 * 0.09));

  float a[5], b[3], c[5], d[5];
  DrawNoise(7, 3, 5, a), DrawNoise(7, 3, 3, b), DrawNoise(7, 4, 5, c), DrawNoise(8, 3, 5, d);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(a[i], b[i]);
  EXPECT_NE(a[0], c[0]);
  EXPECT_NE(a[0], d[0]);
  EXPECT_NE(diffusion.DrawTimestep(7, 0) * 100 + diffusion.DrawTimestep(7, 1),
            diffusion.DrawTimestep(8, 0) * 100 + diffusion.DrawTimestep(8, 1));
}

TEST(Diffusion, OptionsAreChecked) {
  EXPECT_TRUE(DiffusionOptions{}.Validate().ok());
  EXPECT_TRUE((DiffusionOptions{.steps = 2, .schedule = NoiseSchedule::kCosine}).Validate().ok());
  const absl::Status status = DiffusionOptions{.steps = 20}.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("diffusion.steps: expected 21 to 100000 with schedule LINEAR, got 20"),
            absl::string_view::npos)
      << status;
  for (const Prediction p : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
    EXPECT_EQ(*ParsePrediction(Name(p)), p);
  }
  for (const NoiseSchedule s : {NoiseSchedule::kLinear, NoiseSchedule::kCosine}) {
    EXPECT_EQ(*ParseNoiseSchedule(Name(s)), s);
  }
  EXPECT_FALSE(ParsePrediction("epsilon").ok());
  EXPECT_FALSE(ParseNoiseSchedule("SQUARE").ok());
}

}  // namespace
}  // namespace shardit
