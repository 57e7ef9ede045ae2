#include "model/diffusion_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/base/exact_sum.h"
#include "core/tensor/rng.h"
#include "model/diffusion_batch.h"
#include "tests/cuda/device_buffer.h"

namespace shardit {
namespace {

using cuda::DeviceVector;
using cuda::TestContext;

// Images at given steps, on the host; the last one's predictions are near the truth, its latents on and around the
// edges of the bins.
struct Batch {
  Batch(const Diffusion& process, std::vector<int64_t> timesteps, int64_t elements_per_image)
      : diffusion(process), t(std::move(timesteps)), elements(elements_per_image) {
    const int64_t count = images() * elements;
    x_0.resize(static_cast<size_t>(count)), noise.resize(x_0.size());
    output.resize(x_0.size() * static_cast<size_t>(planes()));
    FillNormal({1, RngPurpose::kTest, 1}, 0, count, x_0.data());
    FillNormal({1, RngPurpose::kTest, 2}, 0, count, noise.data());
    FillNormal({1, RngPurpose::kTest, 3}, 0, count * planes(), output.data());
    for (float& value : output) value *= 0.3f;
    const int64_t last = images() - 1;
    const float special[] = {-0.999f, 0.999f, -1.0f, 1.0f, -1.5f, 1.5f, 0.0f};
    const Diffusion::Target target = diffusion.target(t.back());
    for (int64_t i = 0; i < elements; ++i) {
      const size_t at = static_cast<size_t>(last * elements + i);
      if (i < 7) x_0[at] = special[i];
      output[static_cast<size_t>(last * planes() * elements + i)] = static_cast<float>(
          target.x_0 * x_0[at] + target.noise * noise[at] + 0.1 * (static_cast<double>(i % 21) - 10));
    }
  }

  int64_t images() const { return static_cast<int64_t>(t.size()); }
  int64_t planes() const { return diffusion.options().learn_sigma ? 2 : 1; }

  const Diffusion& diffusion;
  std::vector<int64_t> t;
  int64_t elements;
  std::vector<float> x_0, noise, output;
};

struct Result {
  std::vector<ImageLoss> per_image;
  std::vector<float> d_output;
};

constexpr double kDenominator = 17, kGradScale = 3;

Result OnHost(Batch& batch) {
  Result result{std::vector<ImageLoss>(batch.t.size()), std::vector<float>(batch.output.size())};
  ThreadPool pool(1);
  DiffusionLoss(batch.diffusion,
                {.images = batch.images(),
                 .elements = batch.elements,
                 .t = batch.t.data(),
                 .x_0 = batch.x_0.data(),
                 .noise = batch.noise.data(),
                 .output = batch.output.data(),
                 .denominator = kDenominator,
                 .d_output = result.d_output.data(),
                 .grad_scale = kGradScale,
                 .per_image = result.per_image},
                pool);
  return result;
}

// With `in_place` the gradient overwrites the output; `offset` elements off alignment.
Result OnDevice(const Batch& batch, bool in_place = false, size_t offset = 0) {
  std::vector<LossConstants> steps;
  for (const int64_t t : batch.t) steps.push_back(ConstantsAt(batch.diffusion, t));
  const auto shifted = [&](std::vector<float> values) {
    values.insert(values.begin(), offset, 0.0f);
    return values;
  };
  const DeviceVector<LossConstants> constants(steps);
  const DeviceVector<float> x_0(shifted(batch.x_0)), noise(shifted(batch.noise));
  DeviceVector<float> output(shifted(batch.output)), d_output(static_cast<int64_t>(batch.output.size() + offset));
  DeviceVector<ImageLoss> per_image(batch.images());
  cuda::DiffusionLoss({.images = batch.images(),
                       .elements = batch.elements,
                       .learn_sigma = batch.diffusion.options().learn_sigma,
                       .constants = constants.data(),
                       .x_0 = x_0.data() + offset,
                       .noise = noise.data() + offset,
                       .output = output.data() + offset,
                       .denominator = kDenominator,
                       .d_output = (in_place ? output : d_output).data() + offset,
                       .grad_scale = kGradScale,
                       .per_image = per_image.data()},
                      TestContext());
  Result result{per_image.Download(), (in_place ? output : d_output).Download()};
  result.d_output.erase(result.d_output.begin(), result.d_output.begin() + static_cast<std::ptrdiff_t>(offset));
  return result;
}

void ExpectEqual(const Result& got, const Result& want) {
  const auto near = [](double a, double b, double tolerance) { return std::abs(a - b) <= tolerance * std::abs(b); };
  for (size_t n = 0; n < want.per_image.size(); ++n) {
    EXPECT_TRUE(near(got.per_image[n].mse, want.per_image[n].mse, 1e-12)) << "mse of image " << n;
    EXPECT_TRUE(near(got.per_image[n].vb, want.per_image[n].vb, 1e-12))
        << "vb of image " << n << ": " << got.per_image[n].vb << ", not " << want.per_image[n].vb;
  }
  ASSERT_EQ(got.d_output.size(), want.d_output.size());
  for (size_t i = 0; i < want.d_output.size(); ++i) {
    ASSERT_TRUE(near(got.d_output[i], want.d_output[i], 2e-7))
        << "gradient of element " << i << ": " << got.d_output[i] << ", not " << want.d_output[i];
  }
}

class CudaDiffusionLoss : public cuda::CudaTest {};

TEST_F(CudaDiffusionLoss, EqualsTheCpus) {
  for (const NoiseSchedule schedule : {NoiseSchedule::kLinear, NoiseSchedule::kCosine}) {
    for (const Prediction kind : {Prediction::kEpsilon, Prediction::kX0, Prediction::kV}) {
      for (const bool learn_sigma : {true, false}) {
        const Diffusion diffusion({.schedule = schedule, .prediction = kind, .learn_sigma = learn_sigma});
        // An image of several blocks of threads, whole vectors; and one that ends within a vector.
        for (const int64_t elements : {2304, 147}) {
          SCOPED_TRACE(testing::Message() << Name(schedule) << " " << Name(kind) << " learned " << learn_sigma << ", "
                                          << elements << " elements");
          Batch batch(diffusion, {0, 1, 2, 500, 999, 0}, elements);
          ExpectEqual(OnDevice(batch), OnHost(batch));
        }
      }
    }
  }
}

TEST_F(CudaDiffusionLoss, PlacesDoNotChangeTheBits) {
  const Diffusion diffusion({});
  const Batch batch(diffusion, {0, 7, 500, 0}, 1100);
  const Result want = OnDevice(batch);
  for (const Result& got : {OnDevice(batch), OnDevice(batch, /*in_place=*/true), OnDevice(batch, false, 1)}) {
    EXPECT_EQ(got.d_output, want.d_output);
    for (size_t n = 0; n < want.per_image.size(); ++n) {
      EXPECT_EQ(got.per_image[n].mse, want.per_image[n].mse);
      EXPECT_EQ(got.per_image[n].vb, want.per_image[n].vb);
    }
  }
}

TEST_F(CudaDiffusionLoss, NanGoesThrough) {
  const Diffusion diffusion({});
  for (const int64_t t : {0, 500}) {
    Batch batch(diffusion, {3, t}, 20);
    batch.output[40 + 5] = std::numeric_limits<float>::quiet_NaN();   // the second image's prediction
    batch.output[60 + 11] = std::numeric_limits<float>::quiet_NaN();  // its variance value
    const Result result = OnDevice(batch);
    EXPECT_TRUE(std::isfinite(result.per_image[0].loss()));
    EXPECT_TRUE(std::isnan(result.per_image[1].mse));
    EXPECT_TRUE(std::isnan(result.per_image[1].vb));
    for (const size_t bad : {40 + 5, 60 + 5, 60 + 11}) EXPECT_TRUE(std::isnan(result.d_output[bad])) << bad;
    EXPECT_EQ(std::count_if(result.d_output.begin(), result.d_output.end(), [](float x) { return std::isnan(x); }), 3);
  }
}

TEST_F(CudaDiffusionLoss, SumsOfImagesAreTheCpus) {
  std::vector<ImageLoss> images;
  for (int n = 0; n < 203; ++n) images.push_back({std::ldexp(1.0 + n, n % 90 - 60), std::ldexp(-3.0 - n, n % 37)});
  images[70].vb = std::numeric_limits<double>::infinity();
  images[71].mse = std::numeric_limits<double>::quiet_NaN();
  const DeviceVector<ImageLoss> device(images);
  DeviceVector<int64_t> limbs(std::vector<int64_t>(3 * exact::kLimbs));
  ExactSum want[3];
  for (int repeat = 0; repeat < 2; ++repeat) {
    cuda::AddImageLosses(device.data(), device.size(), limbs.data(), TestContext());
    for (const ImageLoss& image : images) {
      want[0].Add(image.loss());
      want[1].Add(image.mse);
      want[2].Add(image.vb);
    }
  }
  std::vector<int64_t> got = limbs.Download();
  for (int k = 0; k < 3; ++k) {
    exact::Carry(got.data() + k * exact::kLimbs);
    EXPECT_TRUE(std::equal(want[k].limbs().begin(), want[k].limbs().end(), got.begin() + k * exact::kLimbs)) << k;
  }
}

// The seam that training, held-out loss and parity go through.
TEST_F(CudaDiffusionLoss, LossOfAPlacedBatch) {
  const Diffusion diffusion({.steps = 50});
  const DitConfig config{.width = 24, .heads = 2, .patch = 1, .channels = 4, .side = 6, .classes = 10};
  RankContext cpu(1), gpu(Device::Cuda(0), {}, 1);
  std::vector<ForwardLossResult> results;
  for (RankContext* context : {&cpu, &gpu}) {
    const DiffusionBatch host = DiffusionBatch::ForHost(*context, config, 3);
    FillNormal({.seed = 1}, 0, host.x_0.elements(), host.x_0.data());
    FillNormal({.seed = 2}, 0, host.x_0.elements(), host.noise.data());
    for (int64_t n = 0; n < 3; ++n) {
      host.input.t_N.data<int64_t>()[n] = 20 * n;
      host.input.y_N.data<int32_t>()[n] = 1;
      host.NoiseImage(diffusion, n);
    }
    const DiffusionBatch batch = host.Placed(*context, diffusion);
    std::vector<float> values(static_cast<size_t>(2 * host.x_0.elements()));
    FillNormal({.seed = 3}, 0, static_cast<int64_t>(values.size()), values.data());
    const Tensor output = Tensor::Empty(context->allocator(), {3, 8, 6, 6});
    output.FromHost(values.data());
    Tape tape(*context);
    results.push_back(LossOf(tape, Var(output), diffusion, batch, 5.0));
    results.back().FetchLoss();
  }
  const ForwardLossResult &want = results[0], &got = results[1];
  ASSERT_EQ(got.per_image.size(), 3u);
  EXPECT_NEAR(got.loss.loss, want.loss.loss, 1e-12 * want.loss.loss);
  EXPECT_NEAR(got.loss.vb, want.loss.vb, 1e-12 * want.loss.vb);
  EXPECT_NEAR(got.per_image[2].mse, want.per_image[2].mse, 1e-12 * want.per_image[2].mse);
  std::vector<float> gradients[2];
  for (int i = 0; i < 2; ++i) {
    gradients[i].resize(static_cast<size_t>(results[static_cast<size_t>(i)].d_output.elements()));
    results[static_cast<size_t>(i)].d_output.ToHost(gradients[i].data());
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_NEAR(gradients[1][i], gradients[0][i], 2e-7 * std::abs(gradients[0][i]));
  }
  // A gradient belongs to the tensors of its context.
  results.clear();
}

}  // namespace
}  // namespace shardit
