// The same run on every layout, with ranks as threads: losses and gathered gradients against one rank, pipelines alone
// bit for bit, deterministic mode bit for bit over data ranks, ZeRO stages and pipelines. The same cases run under the
// sanitizers. The whole grid is tests/bench/layout_grid.cc.
#include <cmath>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "tests/trainer/layout_case.h"

namespace shardit {
namespace {

const LayoutOutcome& OneRank(Conditioning conditioning) {
  static std::map<Conditioning, LayoutOutcome> outcomes;
  const auto [found, missing] = outcomes.try_emplace(conditioning);
  if (missing) found->second = RunLayout({.conditioning = conditioning});
  return found->second;
}

void ExpectSameRun(const LayoutCase& layout) {
  SCOPED_TRACE(layout.Text());
  const LayoutOutcome& one = OneRank(layout.conditioning);
  const LayoutOutcome outcome = RunLayout(layout);
  ASSERT_EQ(outcome.losses.size(), static_cast<size_t>(layout.steps));
  for (size_t s = 0; s < outcome.losses.size(); ++s) {
    EXPECT_LE(std::abs(outcome.losses[s] - one.losses[s]), 1e-5 * one.losses[s]) << "step " << s;
    EXPECT_LE(std::abs(outcome.norms[s] - one.norms[s]), 1e-5 * one.norms[s]) << "step " << s;
  }
  LayoutCase first = layout;
  first.steps = 1;
  LayoutCase reference{.conditioning = layout.conditioning, .steps = 1};
  std::string worst;
  EXPECT_LE(RelativeDistance(RunLayout(first).gradients, RunLayout(reference).gradients, &worst), 1e-5) << worst;
}

class LayoutTest : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(LayoutTest, IsTheSameRun) { ExpectSameRun(GetParam()); }

constexpr Conditioning kZero = Conditioning::kAdaLnZero, kPlain = Conditioning::kAdaLn,
                       kCross = Conditioning::kCrossAttention, kInContext = Conditioning::kInContext;

INSTANTIATE_TEST_SUITE_P(
    Layouts, LayoutTest,
    ::testing::Values(
        LayoutCase{.conditioning = kZero, .dp = 2}, LayoutCase{.conditioning = kInContext, .dp = 3, .micro_batch = 2},
        LayoutCase{.conditioning = kZero, .dp = 2, .zero_stage = 1, .micro_batch = 4},
        LayoutCase{.conditioning = kCross, .dp = 2, .zero_stage = 2, .micro_batch = 4},
        LayoutCase{.conditioning = kZero, .dp = 3, .zero_stage = 3, .recompute = RecomputeMode::kFull},
        LayoutCase{.conditioning = kZero, .tp = 2}, LayoutCase{.conditioning = kPlain, .tp = 3},
        LayoutCase{.conditioning = kCross, .tp = 2}, LayoutCase{.conditioning = kInContext, .tp = 4},
        LayoutCase{.conditioning = kZero, .tp = 2, .sequence_parallel = true, .recompute = RecomputeMode::kFull},
        LayoutCase{.conditioning = kPlain, .tp = 3, .sequence_parallel = true, .micro_batch = 8},
        LayoutCase{.conditioning = kCross, .tp = 2, .sequence_parallel = true, .recompute = RecomputeMode::kSelective},
        LayoutCase{.conditioning = kInContext, .tp = 4, .sequence_parallel = true},
        LayoutCase{.conditioning = kPlain, .pp = 3, .dp = 2, .schedule = ScheduleKind::kGpipe},
        LayoutCase{.conditioning = kZero, .pp = 2, .dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 3},
        LayoutCase{.conditioning = kCross,
                   .pp = 2,
                   .dp = 2,
                   .tp = 2,
                   .sequence_parallel = true,
                   .zero_stage = 2,
                   .schedule = ScheduleKind::kZeroBubbleH1},
        LayoutCase{.conditioning = kInContext,
                   .pp = 2,
                   .dp = 2,
                   .tp = 2,
                   .zero_stage = 1,
                   .schedule = ScheduleKind::kInterleaved,
                   .virtual_stages = 3,
                   .recompute = RecomputeMode::kSelective},
        LayoutCase{.conditioning = kZero,
                   .pp = 3,
                   .tp = 2,
                   .schedule = ScheduleKind::kInterleaved,
                   .virtual_stages = 2,
                   .recompute = RecomputeMode::kFull}));

void ExpectSameBits(const LayoutOutcome& outcome, const LayoutOutcome& one) {
  EXPECT_EQ(outcome.losses, one.losses);
  EXPECT_EQ(outcome.norms, one.norms);
  EXPECT_EQ(outcome.weights, one.weights);
  EXPECT_EQ(outcome.ema, one.ema);
  EXPECT_EQ(outcome.adam_v, one.adam_v);
}

TEST(LayoutBitsTest, APipelineAloneChangesNoBit) {
  for (const Conditioning conditioning : {kZero, kPlain, kCross, kInContext}) {
    const LayoutOutcome one = RunLayout({.conditioning = conditioning, .micro_batch = 4, .steps = 4});
    for (LayoutCase layout : {LayoutCase{.pp = 2}, LayoutCase{.pp = 3, .schedule = ScheduleKind::kGpipe},
                              LayoutCase{.pp = 2, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 3},
                              LayoutCase{.pp = 3, .schedule = ScheduleKind::kZeroBubbleH1}}) {
      layout.conditioning = conditioning;
      layout.micro_batch = 4;
      layout.steps = 4;
      SCOPED_TRACE(layout.Text());
      ExpectSameBits(RunLayout(layout), one);
    }
  }
}

TEST(LayoutBitsTest, DeterministicModeChangesNoBit) {
  const LayoutOutcome one = RunLayout({.deterministic = true, .steps = 4});
  for (LayoutCase layout : {LayoutCase{.dp = 2}, LayoutCase{.dp = 4}, LayoutCase{.dp = 8},
                            LayoutCase{.dp = 2, .zero_stage = 1}, LayoutCase{.dp = 4, .zero_stage = 2},
                            LayoutCase{.dp = 2, .zero_stage = 3}, LayoutCase{.pp = 2, .dp = 4, .zero_stage = 3},
                            LayoutCase{.pp = 3, .dp = 2, .schedule = ScheduleKind::kZeroBubbleH1}}) {
    layout.deterministic = true;
    layout.steps = 4;
    SCOPED_TRACE(layout.Text());
    ExpectSameBits(RunLayout(layout), one);
  }
}

TEST(LayoutBitsTest, TheSameLayoutTwiceChangesNoBit) {
  const LayoutCase layout{.pp = 2, .dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 2, .steps = 4};
  ExpectSameBits(RunLayout(layout), RunLayout(layout));
}

TEST(LayoutTrafficTest, BucketsLeaveInOneOrderBeforeBackwardEnds) {
  for (const int zero_stage : {0, 1, 2}) {
    const LayoutOutcome outcome = RunLayout({.dp = 2, .zero_stage = zero_stage, .steps = 3});
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
TEST(NonFiniteTest, IsSkippedOnEveryRank) {
  const DitConfig config = LayoutModel(Conditioning::kAdaLnZero);
  RunThreadWorld(2, [&](World& world) {
    RankContext context(1);
    Mesh mesh = *Mesh::Create({1, 2, 1}, world.comm());
    const StepComms comms(mesh);
    TrainState state(config, MakeSharding(config, {.dp = 2}, false, mesh.shape(), mesh.coords()), context.allocator());
    state.Initialize(3);
    const std::vector<float> before(state.weights().data(), state.weights().data() + state.layout().size());
    const Diffusion diffusion({});
    const Optimizer optimizer({}, {}, 4);
    TrainStep step(context, state, diffusion, optimizer, comms,
                   {.global_batch = 2, .micro_batch = 1, .check_finite = true});
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
