#include "model/diffusion_batch.h"

#include <cstring>
#include <vector>

#include "core/cuda/graph.h"
#include "core/tensor/rng.h"
#include "tests/cuda/device_buffer.h"

namespace shardit {
namespace {

constexpr uint64_t kSeed = 0x123456789abcdef1;

template <class T>
std::vector<T> ToHost(const Tensor& tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.elements()));
  CHECK(DTypeOf<T>() == tensor.dtype());
  tensor.ToHost(values.data());
  return values;
}

template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// A model whose latents have `channels` * side^2 elements.
DitConfig Config(int64_t channels, int64_t side) {
  return {.width = 24, .heads = 2, .patch = 1, .channels = channels, .side = side, .classes = 10};
}

struct Samples {
  Samples(int64_t images, int64_t elements, int64_t first_position) : x(static_cast<size_t>(images * elements)) {
    FillNormal({.seed = 5, .stream = static_cast<uint64_t>(first_position)}, 0, images * elements, x.data());
    for (int64_t n = 0; n < images; ++n) {
      labels.push_back(static_cast<int32_t>((first_position + n) % 10));
      positions.push_back(first_position + n * 7);
    }
  }
  std::vector<float> x;
  std::vector<int32_t> labels;
  std::vector<int64_t> positions;
};

SampleTensors TensorsFor(Allocator& allocator, const DitConfig& config, int64_t images) {
  return {.x = Tensor::Empty(allocator, {images, config.channels, config.side, config.side}),
          .labels = Tensor::Empty(allocator, {images}, DType::kI32),
          .positions = Tensor::Empty(allocator, {images}, DType::kI64)};
}

void Fill(const SampleTensors& tensors, const Samples& samples) {
  tensors.x.FromHost(samples.x.data());
  tensors.labels.FromHost(samples.labels.data());
  tensors.positions.FromHost(samples.positions.data());
}

// Against what the CPU's functions draw for images [first, first + batch.images()) of the samples.
void ExpectDrawn(const DiffusionBatch& batch, const Samples& samples, int64_t first, const DitConfig& config,
                 const Diffusion& diffusion) {
  const int64_t images = batch.images(), elements = batch.elements();
  std::vector<float> noise(static_cast<size_t>(images * elements)), x_t(noise.size());
  std::vector<int64_t> t;
  std::vector<int32_t> y;
  std::vector<LossConstants> constants;
  for (int64_t n = 0; n < images; ++n) {
    const size_t from = static_cast<size_t>(first + n);
    const int64_t position = samples.positions[from];
    t.push_back(diffusion.DrawTimestep(kSeed, position));
    y.push_back(DrawLabelDrop(kSeed, position, config.class_dropout) ? static_cast<int32_t>(config.null_class())
                                                                     : samples.labels[from]);
    constants.push_back(ConstantsAt(diffusion, t.back()));
    DrawNoise(kSeed, position, elements, noise.data() + n * elements);
    diffusion.AddNoise(t.back(), samples.x.data() + (first + n) * elements, noise.data() + n * elements, elements,
                       x_t.data() + n * elements);
  }
  EXPECT_EQ(ToHost<int64_t>(batch.input.t_N), t);
  EXPECT_EQ(ToHost<int32_t>(batch.input.y_N), y);
  EXPECT_TRUE(SameBits(ToHost<float>(batch.noise), noise));
  EXPECT_TRUE(SameBits(ToHost<float>(batch.input.x_NCHW), x_t));
  const std::vector<uint8_t> bytes = ToHost<uint8_t>(batch.constants);
  ASSERT_EQ(bytes.size(), constants.size() * sizeof(LossConstants));
  EXPECT_EQ(std::memcmp(bytes.data(), constants.data(), bytes.size()), 0);
}

class CudaDiffusionBatch : public cuda::CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) context_ = std::make_unique<RankContext>(Device::Cuda(0), CudaOptions{}, 1);
  }
  std::unique_ptr<RankContext> context_;
};

TEST_F(CudaDiffusionBatch, DrawsTheBitsOfTheCpu) {
  for (const NoiseSchedule schedule : {NoiseSchedule::kLinear, NoiseSchedule::kCosine}) {
    const Diffusion diffusion({.steps = 50, .schedule = schedule});
    const Tensor table = LossTable(context_->allocator(), diffusion);
    // More than one block of threads an image; an image that is no multiple of four elements.
    for (const auto& [channels, side] : {std::pair{4, 18}, std::pair{3, 5}}) {
      const DitConfig config = Config(channels, side);
      const Samples samples(70, config.latent_elements(), 1 << 20);
      const SampleTensors tensors = TensorsFor(context_->allocator(), config, 70);
      Fill(tensors, samples);
      // A micro-batch in the middle: its first image may lie at any address.
      const DiffusionBatch batch = DrawBatch(*context_, config, table, kSeed, tensors.Images(3, 60));
      ExpectDrawn(batch, samples, 3, config, diffusion);
      EXPECT_EQ(batch.x_0.raw(), tensors.x.Narrow(0, 3, 60).raw());
    }
  }
}

// Everything happens in the draws that are tested: some labels are dropped, some not, and the first step is drawn.
TEST_F(CudaDiffusionBatch, TheTestedDrawsDiffer) {
  const Diffusion diffusion({.steps = 50});
  int dropped = 0, first_steps = 0;
  for (const int64_t position : Samples(70, 1, 1 << 20).positions) {
    dropped += DrawLabelDrop(kSeed, position, Config(4, 18).class_dropout);
    first_steps += diffusion.DrawTimestep(kSeed, position) == 0;
  }
  EXPECT_GT(dropped, 0);
  EXPECT_LT(dropped, 35);
  EXPECT_GT(first_steps, 0);
}

TEST_F(CudaDiffusionBatch, AReplayDrawsForTheSamplesThatAreThere) {
  const Diffusion diffusion({.steps = 50});
  const DitConfig config = Config(4, 6);
  const Tensor table = LossTable(context_->allocator(), diffusion);
  const SampleTensors tensors = TensorsFor(context_->allocator(), config, 5);
  // Before the recording, in which no memory may be asked of the device.
  DiffusionBatch batch = DrawBatch(*context_, config, table, kSeed, tensors);
  batch = {};
  const Stream stream = context_->cuda().stream;
  const auto graph = cuda::Graph::Capture(stream, [&] { batch = DrawBatch(*context_, config, table, kSeed, tensors); });
  for (const int64_t position : {0, 1000}) {
    const Samples samples(5, config.latent_elements(), position);
    Fill(tensors, samples);
    graph->Launch(stream);
    ExpectDrawn(batch, samples, 0, config, diffusion);
  }
}

TEST_F(CudaDiffusionBatch, AHostBatchIsPlacedWhole) {
  const Diffusion diffusion({.steps = 50});
  const DitConfig config = Config(3, 5);
  DiffusionBatch placed;
  RankContext cpu(1);
  DiffusionBatch host = DiffusionBatch::ForHost(cpu, config, 4);
  {
    const DiffusionBatch filled = DiffusionBatch::ForHost(*context_, config, 4);
    for (const DiffusionBatch& batch : {filled, host}) {
      FillNormal({.seed = 1}, 0, batch.x_0.elements(), batch.x_0.data());
      FillNormal({.seed = 2}, 0, batch.x_0.elements(), batch.noise.data());
      for (int64_t n = 0; n < 4; ++n) {
        batch.input.t_N.data<int64_t>()[n] = 13 * n;
        batch.input.y_N.data<int32_t>()[n] = static_cast<int32_t>(n);
        batch.NoiseImage(diffusion, n);
      }
    }
    placed = filled.Placed(*context_, diffusion);
  }
  EXPECT_TRUE(SameBits(ToHost<float>(placed.x_0), ToHost<float>(host.x_0)));
  EXPECT_TRUE(SameBits(ToHost<float>(placed.noise), ToHost<float>(host.noise)));
  EXPECT_TRUE(SameBits(ToHost<float>(placed.input.x_NCHW), ToHost<float>(host.input.x_NCHW)));
  EXPECT_EQ(ToHost<int64_t>(placed.input.t_N), ToHost<int64_t>(host.input.t_N));
  EXPECT_EQ(ToHost<int32_t>(placed.input.y_N), ToHost<int32_t>(host.input.y_N));
  EXPECT_EQ(placed.x_0.device(), Device::Cuda(0));
  // On the CPU there is nowhere to go.
  EXPECT_EQ(host.Placed(cpu, diffusion).x_0.raw(), host.x_0.raw());
}

}  // namespace
}  // namespace shardit
