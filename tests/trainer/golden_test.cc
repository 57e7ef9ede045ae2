// Parity with an independent PyTorch implementation (tests/golden): outputs, losses, every gradient and activation,
// twenty training steps and the samplers, for all four designs.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "gtest/gtest.h"
#include "model/diffusion_batch.h"
#include "model/sampler.h"
#include "parallel/comm/world.h"
#include "tests/temp_folder.h"
#include "tests/trainer/golden_files.h"
#include "trainer/parity.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/train_state.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

constexpr double kParityTolerance = 2e-5;
constexpr double kTrainingTolerance = 1e-4;
const std::string kCases = GoldenCases();

// Cases whose name starts with `prefix`, or does not start with any of the other kinds' prefixes.
std::vector<std::string> CaseNames(const std::string& prefix) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kCases)) {
    const std::string name = entry.path().filename();
    const bool other = name.starts_with("train_") || name.starts_with("sample_");
    if (prefix.empty() ? !other : name.starts_with(prefix)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

SafetensorsReader OpenCase(const std::string& name, const std::string& file) {
  return OpenTensors(kCases + name + "/" + file + ".safetensors");
}

class ParityCase : public ::testing::TestWithParam<std::string> {};

TEST_P(ParityCase, OutputLossAndGradients) {
  RankContext context(2);
  const TempFolder written;
  const std::string out = written / "parity.safetensors";
  const std::string folder = kCases + GetParam();
  const absl::Status status = RunParity(context, LoadGoldenOptions(GetParam()), folder + "/weights.safetensors",
                                        folder + "/inputs.safetensors", out);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto actual = SafetensorsReader::Open(out);
  ASSERT_TRUE(actual.ok());
  const SafetensorsReader expected = OpenCase(GetParam(), "outputs");
  EXPECT_EQ(actual->entries().size(), expected.entries().size());
  for (const SafetensorsEntry& entry : expected.entries()) {
    EXPECT_LE(RelativeError(ReadTensor(*actual, entry.name).data(), ReadTensor(expected, entry.name)), kParityTolerance)
        << entry.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ParityCase, ::testing::ValuesIn(CaseNames("")),
                         [](const auto& info) { return info.param; });

class ActivationCase : public ::testing::TestWithParam<std::string> {};

TEST_P(ActivationCase, AfterEmbeddingAndEveryBlock) {
  const RunOptions options = LoadGoldenOptions(GetParam());
  RankContext context(1);
  Dit model(options.model);
  model.parameters().Allocate(context.allocator());
  ASSERT_TRUE(LoadWeights(kCases + GetParam() + "/weights.safetensors", model).ok());
  const SafetensorsReader inputs = OpenCase(GetParam(), "inputs");
  std::vector<float> x = ReadTensor(inputs, "x");
  const std::vector<float> noise = ReadTensor(inputs, "noise");
  std::vector<int64_t> t = ReadIntegers(inputs, "t");
  const std::vector<int64_t> wide_y = ReadIntegers(inputs, "y");
  std::vector<int32_t> y(wide_y.begin(), wide_y.end());
  const Diffusion diffusion(options.diffusion);
  const int64_t images = static_cast<int64_t>(t.size()), elements = options.model.latent_elements();
  std::vector<float> x_t(x.size());
  for (int64_t n = 0; n < images; ++n) {
    diffusion.AddNoise(t[static_cast<size_t>(n)], x.data() + n * elements, noise.data() + n * elements, elements,
                       x_t.data() + n * elements);
  }
  const DitInput input{
      Tensor::Borrow(x_t.data(), {images, options.model.channels, options.model.side, options.model.side}),
      Tensor::Borrow(t.data(), {images}, DType::kI64), Tensor::Borrow(y.data(), {images}, DType::kI32)};
  const SafetensorsReader expected = OpenCase(GetParam(), "activations");
  Tape tape(context, Tape::Mode::kInference);
  int compared = 0;
  DitForwardOptions forward;
  forward.probe = [&](std::string_view name, const Tensor& tokens) {
    const std::string key =
        name == "embed" ? "embedding" : "block." + std::string(name.substr(std::string_view("blocks.").size()));
    EXPECT_LE(RelativeError(tokens.data(), ReadTensor(expected, key)), kParityTolerance) << key;
    ++compared;
  };
  model.Forward(tape, input, forward);
  EXPECT_EQ(compared, 1 + options.model.depth);
}

INSTANTIATE_TEST_SUITE_P(Golden, ActivationCase,
                         ::testing::Values("adaln_zero", "adaln", "cross_attention", "in_context"),
                         [](const auto& info) { return info.param; });

class TrainingCase : public ::testing::TestWithParam<std::string> {};

// Twenty steps of AdamW and EMA on given batches.
TEST_P(TrainingCase, TwentySteps) {
  const RunOptions options = LoadGoldenOptions(GetParam());
  RankContext context(2);
  World world = SelfWorld();
  TrainState state(options.model, context.allocator());
  ASSERT_TRUE(LoadWeights(kCases + GetParam() + "/weights.safetensors", state.model()).ok());
  state.StartFromWeights();
  for (const FlatLayout::Entry& entry : state.layout().entries()) {
    entry.parameter->grad = state.layout().View(state.grads(), entry);
  }
  const Optimizer optimizer(options.optimizer, options.ema, options.train.steps);
  const Diffusion diffusion(options.diffusion);
  const SafetensorsReader inputs = OpenCase(GetParam(), "inputs");
  const SafetensorsReader expected = OpenCase(GetParam(), "outputs");
  std::vector<float> x = ReadTensor(inputs, "x");
  std::vector<float> noise = ReadTensor(inputs, "noise");
  std::vector<int64_t> t = ReadIntegers(inputs, "t");
  const std::vector<int64_t> wide_y = ReadIntegers(inputs, "y");
  std::vector<int32_t> y(wide_y.begin(), wide_y.end());
  const std::vector<float> losses = ReadTensor(expected, "loss"), norms = ReadTensor(expected, "grad_norm");
  const int64_t steps = static_cast<int64_t>(losses.size());
  const int64_t images = static_cast<int64_t>(t.size()) / steps, elements = options.model.latent_elements();
  ASSERT_EQ(steps, 20);

  for (int64_t step = 0; step < steps; ++step) {
    const int64_t first = step * images;
    const Shape latents{images, options.model.channels, options.model.side, options.model.side};
    DiffusionBatch batch = DiffusionBatch::Allocate(context.allocator(), options.model, images);
    batch.x_0 = Tensor::Borrow(x.data() + first * elements, latents);
    batch.noise = Tensor::Borrow(noise.data() + first * elements, latents);
    batch.input.t_N = Tensor::Borrow(t.data() + first, {images}, DType::kI64);
    batch.input.y_N = Tensor::Borrow(y.data() + first, {images}, DType::kI32);
    for (int64_t n = 0; n < images; ++n) batch.NoiseImage(diffusion, n);
    for (const auto& parameter : state.model().parameters().all()) parameter->grad_written = false;
    Tape tape(context);
    ForwardLossResult result = ForwardLoss(tape, state.model(), diffusion, batch, static_cast<double>(images));
    const double loss = result.loss.loss;
    tape.Backward({{result.output, std::move(result.d_output)}});
    const UpdateReport update = optimizer.Step(context, state, world.comm(), true);
    const size_t s = static_cast<size_t>(step);
    EXPECT_LE(std::abs(loss - losses[s]), kTrainingTolerance * std::abs(losses[s])) << "step " << step;
    EXPECT_LE(std::abs(update.grad_norm - norms[s]), kTrainingTolerance * norms[s]) << "step " << step;
  }
  for (const auto& parameter : state.model().parameters().all()) {
    EXPECT_LE(RelativeError(parameter->value.data(), ReadTensor(expected, "weights." + parameter->name)),
              kTrainingTolerance)
        << parameter->name;
  }
  for (const auto& parameter : state.ema_model().parameters().all()) {
    EXPECT_LE(RelativeError(parameter->value.data(), ReadTensor(expected, "ema." + parameter->name)),
              kTrainingTolerance)
        << parameter->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, TrainingCase, ::testing::ValuesIn(CaseNames("train_")),
                         [](const auto& info) { return info.param; });

class SamplingCase : public ::testing::TestWithParam<std::string> {};

// One variant of a case: the latent after every step, from the given start and noise.
void CompareSteps(const std::string& variant, const RunOptions& options, const Dit& model, RankContext& context,
                  const SafetensorsReader& inputs, const SafetensorsReader& expected) {
  const DitConfig& config = options.model;
  const int64_t cfg_channels = ReadIntegers(inputs, variant + ".cfg_channels")[0];
  std::vector<float> x = ReadTensor(inputs, "latent");
  const std::vector<float> noise = ReadTensor(inputs, "noise");
  const std::vector<float> steps = ReadTensor(expected, variant);
  const std::vector<int64_t> labels = ReadIntegers(inputs, "y");
  const int64_t images = static_cast<int64_t>(labels.size()), elements = config.latent_elements();
  const int64_t kept = static_cast<int64_t>(steps.size()) / (images * elements);
  SamplerOptions sampling;
  sampling.kind = ReadIntegers(inputs, variant + ".ddim")[0] == 1 ? SamplerKind::kDdim : SamplerKind::kDdpm;
  sampling.steps = kept;
  sampling.eta = ReadTensor(inputs, variant + ".eta")[0];
  sampling.cfg_scale = ReadTensor(inputs, variant + ".cfg_scale")[0];
  sampling.guide_all_channels = cfg_channels == config.channels;
  const auto sampler = Sampler::Create(Diffusion(options.diffusion), config, sampling);
  ASSERT_TRUE(sampler.ok()) << sampler.status().message();

  const int64_t halves = sampler->guided() ? 2 : 1, out_elements = config.patch_out() * config.tokens();
  for (int64_t taken = 0; taken < kept; ++taken) {
    const int64_t k = kept - 1 - taken;
    std::vector<float> both;
    std::vector<int64_t> t(static_cast<size_t>(halves * images), sampler->process().at(k).timestep);
    std::vector<int32_t> y(labels.begin(), labels.end());
    for (int64_t half = 0; half < halves; ++half) both.insert(both.end(), x.begin(), x.end());
    y.resize(t.size(), static_cast<int32_t>(config.null_class()));
    Tape tape(context, Tape::Mode::kInference);
    const int64_t rows = halves * images;
    const Var output = model.Forward(
        tape, {Tensor::Borrow(both.data(), {rows, config.channels, config.side, config.side}),
               Tensor::Borrow(t.data(), {rows}, DType::kI64), Tensor::Borrow(y.data(), {rows}, DType::kI32)});
    for (int64_t n = 0; n < images; ++n) {
      float* conditional = output.value().data() + n * out_elements;
      if (halves == 2) sampler->Guide(conditional, output.value().data() + (images + n) * out_elements);
      sampler->Step(k, x.data() + n * elements, conditional, noise.data() + (taken * images + n) * elements,
                    x.data() + n * elements);
    }
    const std::vector<float> want(steps.begin() + taken * images * elements,
                                  steps.begin() + (taken + 1) * images * elements);
    EXPECT_LE(RelativeError(x.data(), want), kTrainingTolerance) << variant << " step " << taken;
  }
}

TEST_P(SamplingCase, StepForStep) {
  const RunOptions options = LoadGoldenOptions(GetParam());
  RankContext context(1);
  Dit model(options.model);
  model.parameters().Allocate(context.allocator());
  ASSERT_TRUE(LoadWeights(kCases + GetParam() + "/weights.safetensors", model).ok());
  const SafetensorsReader inputs = OpenCase(GetParam(), "inputs"), expected = OpenCase(GetParam(), "outputs");
  EXPECT_FALSE(expected.entries().empty());
  for (const SafetensorsEntry& variant : expected.entries()) {
    CompareSteps(variant.name, options, model, context, inputs, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, SamplingCase, ::testing::ValuesIn(CaseNames("sample_")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shardit
