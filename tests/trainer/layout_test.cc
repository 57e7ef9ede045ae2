// Data parallelism with ranks as threads: losses and weights on 1, 2 and 4 ranks, replicas equal bit for bit, gradients
// reduced while backward runs. The same cases run under the thread sanitizer.
#include <cmath>
#include <mutex>
#include <vector>

#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

constexpr int64_t kGlobalBatch = 8;
constexpr int kSteps = 6;

DitConfig SmallConfig(Conditioning conditioning) {
  DitConfig config;
  config.depth = 2;
  config.width = 48;
  config.heads = 4;
  config.patch = 2;
  config.channels = 2;
  config.side = 8;
  config.classes = 3;
  config.conditioning = conditioning;
  return config;
}

struct Outcome {
  std::vector<double> losses;
  std::vector<float> weights;
  std::vector<StepReport> reports;
};

// kSteps steps of rank `world.rank()`; bucket_bytes small enough for several buckets.
Outcome TrainRank(World& world, const DitConfig& config, int64_t micro_batch, RecomputeMode recompute) {
  RankContext context(1);
  TrainState state(config, context.allocator());
  state.Initialize(3);
  const Diffusion diffusion({});
  const Optimizer optimizer({.learning_rate = 1e-3, .clip_norm = 0.5, .warmup_steps = 3}, {.decay = 0.9}, kSteps);
  const std::unique_ptr<Communicator> control = world.comm().Split(0, world.rank(), "control");
  TrainStep step(context, state, diffusion, optimizer, world.comm(), *control,
                 {.seed = 5,
                  .global_batch = kGlobalBatch,
                  .micro_batch = micro_batch,
                  .recompute = recompute,
                  .bucket_bytes = 32 << 10});
  const int64_t local = kGlobalBatch / world.size(), elements = config.latent_elements();
  std::vector<float> x(static_cast<size_t>(local * elements));
  std::vector<int32_t> y(static_cast<size_t>(local));
  std::vector<int64_t> positions(y.size());
  Outcome outcome;
  for (int s = 0; s < kSteps; ++s) {
    for (int64_t n = 0; n < local; ++n) {
      const int64_t position = s * kGlobalBatch + world.rank() * local + n;
      positions[static_cast<size_t>(n)] = position;
      y[static_cast<size_t>(n)] = static_cast<int32_t>(position % config.classes);
      FillNormal({.seed = 8, .stream = static_cast<uint64_t>(position)}, 0, elements, x.data() + n * elements);
    }
    const StepReport report = step.Run({.x = x, .y = y, .positions = positions});
    outcome.losses.push_back(report.loss);
    outcome.reports.push_back(report);
  }
  outcome.weights.assign(state.weights().data(), state.weights().data() + state.layout().size());
  return outcome;
}

std::vector<Outcome> TrainOn(int ranks, const DitConfig& config, int64_t micro_batch,
                             RecomputeMode recompute = RecomputeMode::kNone) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  RunThreadWorld(ranks, [&](World& world) {
    outcomes[static_cast<size_t>(world.rank())] = TrainRank(world, config, micro_batch, recompute);
  });
  return outcomes;
}

TEST(LayoutTest, RanksMicroBatchesAndRecomputeLeaveTheLossesAlone) {
  for (const Conditioning design :
       {Conditioning::kAdaLnZero, Conditioning::kAdaLn, Conditioning::kCrossAttention, Conditioning::kInContext}) {
    SCOPED_TRACE(Name(design));
    const DitConfig config = SmallConfig(design);
    const Outcome one = TrainOn(1, config, kGlobalBatch)[0];
    EXPECT_NE(one.losses.front(), one.losses.back());
    for (const int ranks : {1, 2, 4}) {
      for (const int64_t micro_batch : {int64_t{1}, kGlobalBatch / ranks}) {
        const std::vector<Outcome> outcomes = TrainOn(ranks, config, micro_batch, RecomputeMode::kFull);
        for (const Outcome& outcome : outcomes) {
          EXPECT_EQ(outcome.weights, outcomes[0].weights) << ranks << " replicas differ";
          EXPECT_EQ(outcome.losses, outcomes[0].losses);
          for (size_t s = 0; s < one.losses.size(); ++s) {
            EXPECT_LE(std::abs(outcome.losses[s] - one.losses[s]), 1e-5 * one.losses[s])
                << ranks << " ranks, micro-batch " << micro_batch << ", step " << s;
          }
        }
      }
    }
  }
}

TEST(LayoutTest, BucketsLeaveInOneOrderBeforeBackwardEnds) {
  for (const Outcome& outcome : TrainOn(2, SmallConfig(Conditioning::kAdaLnZero), kGlobalBatch / 2)) {
    for (const StepReport& report : outcome.reports) {
      const std::vector<BucketTrace>& buckets = report.reduce.buckets;
      ASSERT_GT(buckets.size(), 3u);
      EXPECT_LE(report.reduce.overlapped_bytes, report.reduce.bytes);
      // All but the last bucket, which ends with the embeddings, are full before the walk is over.
      for (size_t i = 0; i + 1 < buckets.size(); ++i) {
        EXPECT_LT(buckets[i].issued, report.backward_end);
        EXPECT_LE(buckets[i].issued, buckets[i + 1].issued);
      }
    }
  }
}

// A batch whose loss is not finite changes nothing but the counters.
TEST(LayoutTest, NonFiniteStepsAreSkippedOnEveryRank) {
  const DitConfig config = SmallConfig(Conditioning::kAdaLnZero);
  RunThreadWorld(2, [&](World& world) {
    RankContext context(1);
    TrainState state(config, context.allocator());
    state.Initialize(3);
    const std::vector<float> before(state.weights().data(), state.weights().data() + state.layout().size());
    const Diffusion diffusion({});
    const Optimizer optimizer({}, {}, 4);
    const std::unique_ptr<Communicator> control = world.comm().Split(0, world.rank(), "control");
    TrainStep step(context, state, diffusion, optimizer, world.comm(), *control,
                   {.global_batch = 2, .micro_batch = 1, .bucket_bytes = 1 << 20, .check_finite = true});
    std::vector<float> x(static_cast<size_t>(config.latent_elements()), 0.5f);
    const std::vector<int32_t> y{0};
    const std::vector<int64_t> positions{world.rank()};
    if (world.rank() == 1) x[7] = NAN;
    const StepReport report = step.Run({.x = x, .y = y, .positions = positions});
    EXPECT_TRUE(report.update.skipped);
    // The walk begins at the output: its first node is the first to see the bad gradient, on the rank that made it.
    EXPECT_EQ(report.non_finite_node, world.rank() == 1 ? "unpatchify" : "");
    EXPECT_EQ(state.step, 1);
    EXPECT_EQ(state.skipped, 1);
    EXPECT_EQ(state.updates, 0);
    EXPECT_EQ(before, std::vector<float>(state.weights().data(), state.weights().data() + state.layout().size()));
  });
}

}  // namespace
}  // namespace shardit
