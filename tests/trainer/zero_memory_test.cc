// ZeRO stage 3 on eight ranks: everything that a rank ever holds at once (weights, gradients, moments, EMA,
// activations, buffers) is less than the model's parameters alone.
#include <mutex>
#include <vector>

#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "trainer/train/sharded_forward.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

// Many small blocks, few tokens: the state outweighs the activations, as in a large model.
DitConfig DeepConfig() {
  DitConfig config;
  config.depth = 48;
  config.width = 48;
  config.heads = 2;
  config.patch = 2;
  config.channels = 1;
  config.side = 4;
  config.classes = 3;
  return config;
}

// The allocator's high-water mark of one rank over three steps and a pass of the EMA model.
int64_t PeakBytes(World& world, const DitConfig& config, int zero_stage) {
  RankContext context(1);
  Mesh mesh = *Mesh::Create({1, world.size(), 1}, world.comm());
  const StepComms comms(mesh);
  const ParallelOptions parallel{.dp = world.size(), .zero_stage = zero_stage};
  TrainState state(config, MakeSharding(config, parallel, false, mesh.shape(), mesh.coords()), context.allocator());
  state.Initialize(1);
  const Diffusion diffusion({});
  const Optimizer optimizer({}, {}, 3);
  const int64_t batch = world.size();
  TrainStep step(context, state, diffusion, optimizer, comms, {.global_batch = batch, .micro_batch = 1});
  std::vector<float> x(static_cast<size_t>(config.latent_elements()));
  for (int64_t s = 0; s < 3; ++s) {
    const std::vector<int64_t> positions{s * batch + world.rank()};
    const std::vector<int32_t> y{static_cast<int32_t>(s)};
    FillNormal({.seed = 8, .stream = static_cast<uint64_t>(positions[0])}, 0, config.latent_elements(), x.data());
    step.Run({.x = x, .y = y, .positions = positions});
  }
  step.FinishGather();
  ShardedForward ema(context, state, comms);
  DitInput input{Tensor::Zeros(context.allocator(), {1, 1, 4, 4}), Tensor::Zeros(context.allocator(), {1}, DType::kI64),
                 Tensor::Zeros(context.allocator(), {1}, DType::kI32)};
  ema.Run(input);
  return context.allocator().stats().peak_bytes_in_use;
}

std::vector<int64_t> PeakBytesByRank(int ranks, int zero_stage) {
  std::vector<int64_t> peaks(static_cast<size_t>(ranks));
  std::mutex mutex;
  RunThreadWorld(ranks, [&](World& world) {
    const int64_t peak = PeakBytes(world, DeepConfig(), zero_stage);
    const std::lock_guard lock(mutex);
    peaks[static_cast<size_t>(world.rank())] = peak;
  });
  return peaks;
}

TEST(ZeroMemoryTest, NoRankEverHoldsAllParameters) {
  const int64_t parameters = Dit(DeepConfig()).parameters().elements() * SizeOf(DType::kF32);
  for (const int64_t peak : PeakBytesByRank(8, 3)) EXPECT_LT(peak, parameters);
  for (const int64_t peak : PeakBytesByRank(8, 2)) EXPECT_GT(peak, parameters);
}

TEST(ZeroMemoryTest, EveryStageTakesLess) {
  int64_t last = PeakBytesByRank(4, 0)[0];
  for (const int zero_stage : {1, 2, 3}) {
    const int64_t peak = PeakBytesByRank(4, zero_stage)[0];
    EXPECT_LT(peak, last) << "stage " << zero_stage;
    last = peak;
  }
}

}  // namespace
}  // namespace shardit
