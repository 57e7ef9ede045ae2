// The goldens of tests/golden on CUDA: outputs, losses and every gradient of all designs in fp32, and twenty training
// steps in fp32 and bf16. Elsewhere than where they were built, tests find the cases through SHARDIT_GOLDEN_CASES, or
// run none.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "core/cuda/device_query.h"
#include "gtest/gtest.h"
#include "model/diffusion_batch.h"
#include "parallel/comm/world.h"
#include "tests/core/host_copy.h"
#include "tests/cuda/wants_gpus.h"
#include "tests/temp_folder.h"
#include "tests/trainer/golden_files.h"
#include "trainer/parity.h"
#include "trainer/train/device_update.h"
#include "trainer/train/optimizer.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

// Relative to the largest value of a tensor, as on the CPU (tests/trainer/golden_test.cc).
constexpr double kParityTolerance = 2e-5;
constexpr double kTrainingTolerance = 1e-4;
// Losses and gradient norms in bf16, which keeps 8 bits: there is no golden of its own. Weights stay fp32.
constexpr double kBf16Tolerance = 3e-2;

// Training cases, or those of one forward and backward.
std::vector<std::string> CaseNames(bool training) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenCases(), error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("sample_") && name.starts_with("train_") == training) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

class CudaGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaGolden, OutputLossAndGradients) {
  SKIP_WITHOUT_GPUS(1);
  const std::string folder = GoldenCases() + GetParam();
  const TempFolder written;
  const std::string out = written / "parity.safetensors";
  RankContext context(Device::Cuda(0), CudaOptions{}, 1);
  const absl::Status status = RunParity(context, LoadGoldenOptions(GetParam()), folder + "/weights.safetensors",
                                        folder + "/inputs.safetensors", out);
  ASSERT_TRUE(status.ok()) << status.message();
  const SafetensorsReader actual = OpenTensors(out), expected = OpenTensors(folder + "/outputs.safetensors");
  EXPECT_EQ(actual.entries().size(), expected.entries().size());
  for (const SafetensorsEntry& entry : expected.entries()) {
    EXPECT_LE(RelativeError(ReadTensor(actual, entry.name), ReadTensor(expected, entry.name)), kParityTolerance)
        << entry.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaGolden, ::testing::ValuesIn(CaseNames(false)),
                         [](const auto& info) { return info.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaGolden);

// The batches of a training case.
struct TrainingInputs {
  explicit TrainingInputs(const SafetensorsReader& file)
      : x(ReadTensor(file, "x")), noise(ReadTensor(file, "noise")), t(ReadIntegers(file, "t")) {
    const std::vector<int64_t> wide = ReadIntegers(file, "y");
    y.assign(wide.begin(), wide.end());
  }

  // Images [first, first + count), noised, on the device.
  DiffusionBatch Batch(RankContext& context, const DitConfig& config, const Diffusion& diffusion, int64_t first,
                       int64_t count) const {
    const int64_t elements = config.latent_elements();
    const DiffusionBatch batch = DiffusionBatch::ForHost(context, config, count);
    std::copy_n(x.begin() + first * elements, count * elements, batch.x_0.data());
    std::copy_n(noise.begin() + first * elements, count * elements, batch.noise.data());
    std::copy_n(t.begin() + first, count, batch.input.t_N.data<int64_t>());
    std::copy_n(y.begin() + first, count, batch.input.y_N.data<int32_t>());
    for (int64_t n = 0; n < count; ++n) batch.NoiseImage(diffusion, n);
    return batch.Placed(context, diffusion);
  }

  Floats x, noise;
  std::vector<int64_t> t;
  std::vector<int32_t> y;
};

class CudaTrainingGolden : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(CudaTrainingGolden, TwentySteps) {
  SKIP_WITHOUT_GPUS(1);
  const auto& [name, dtype] = GetParam();
  const std::string folder = GoldenCases() + name;
  const bool bf16 = dtype == DType::kBF16;
  const RunOptions options = LoadGoldenOptions(name);
  RankContext context(Device::Cuda(0), CudaOptions{}, 1);
  World world = SelfWorld();
  Sharding sharding = Sharding::Whole(options.model);
  sharding.compute = dtype;
  TrainState state(options.model, sharding, context.allocator());
  // Without a bf16 copy the model's parameters are the weights.
  ASSERT_TRUE(LoadWeights(folder + "/weights.safetensors", bf16 ? state.ema_model() : state.model()).ok());
  if (bf16) state.weights().CopyFrom(state.ema());
  state.StartFromWeights();
  state.RefreshComputeWeights(context);
  for (const FlatLayout::Entry& entry : state.layout().entries()) {
    entry.parameter->grad = state.layout().View(state.grads(), entry);
  }
  const Optimizer optimizer(options.optimizer, options.ema, options.train.steps);
  const Diffusion diffusion(options.diffusion);
  DeviceUpdate update(context, state);
  const TrainingInputs inputs(OpenTensors(folder + "/inputs.safetensors"));
  const SafetensorsReader expected = OpenTensors(folder + "/outputs.safetensors");
  const Floats losses = ReadTensor(expected, "loss"), norms = ReadTensor(expected, "grad_norm");
  ASSERT_EQ(losses.size(), 20u);
  const int64_t images = static_cast<int64_t>(inputs.t.size() / losses.size());
  const double tolerance = bf16 ? kBf16Tolerance : kTrainingTolerance;
  for (size_t step = 0; step < losses.size(); ++step) {
    const DiffusionBatch batch =
        inputs.Batch(context, options.model, diffusion, static_cast<int64_t>(step) * images, images);
    for (const auto& parameter : state.model().parameters().all()) parameter->grad_written = false;
    update.Begin(optimizer.Begin(state, static_cast<double>(images)));
    update.sums().Zero();
    Tape tape(context);
    ForwardLossResult result = ForwardLoss(tape, state.model(), diffusion, batch, static_cast<double>(images));
    update.sums().AddImages(result, context.cuda());
    tape.Backward({{result.output, std::move(result.d_output)}});
    update.Enqueue(world.comm());
    context.Synchronize();
    const UpdateReport report = optimizer.End(update.control(), state);
    EXPECT_FALSE(report.skipped) << "step " << step;
    EXPECT_LE(std::abs(update.control().loss - losses[step]), tolerance * std::abs(losses[step])) << "step " << step;
    EXPECT_LE(std::abs(report.grad_norm - norms[step]), tolerance * norms[step]) << "step " << step;
  }
  if (bf16) return;
  for (Dit* model : {&state.model(), &state.ema_model()}) {
    const std::string prefix = model == &state.model() ? "weights." : "ema.";
    for (const auto& parameter : model->parameters().all()) {
      EXPECT_LE(RelativeError(ReadFloats(parameter->value), ReadTensor(expected, prefix + parameter->name)), tolerance)
          << prefix << parameter->name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaTrainingGolden,
                         ::testing::Combine(::testing::ValuesIn(CaseNames(true)),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::string(Name(std::get<1>(info.param)));
                         });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaTrainingGolden);

}  // namespace
}  // namespace shardit
