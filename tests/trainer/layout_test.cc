// The same run on every layout, with ranks as threads: losses and gathered gradients against one rank, pipelines alone
// bit for bit, deterministic mode bit for bit over data ranks, ZeRO stages and pipelines. The same cases run under the
// sanitizers. The whole grid is tests/bench/layout_grid.cc.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/trainer/layout_grid.h"

namespace shardit {
namespace {

constexpr Conditioning kZero = Conditioning::kAdaLnZero, kPlain = Conditioning::kAdaLn,
                       kCross = Conditioning::kCrossAttention, kInContext = Conditioning::kInContext;

class LayoutTest : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(LayoutTest, IsTheSameRun) {
  const LayoutCase& layout = GetParam();
  SCOPED_TRACE(layout.Text());
  static LayoutComparison comparison;
  const auto [outcome, distance] = comparison.Compare(layout);
  ASSERT_EQ(outcome.losses.size(), static_cast<size_t>(layout.steps));
  EXPECT_LE(distance.loss, kLayoutTolerance);
  EXPECT_LE(distance.norm, kLayoutTolerance);
  EXPECT_LE(distance.gradient, kLayoutTolerance) << distance.gradient_name;
}

INSTANTIATE_TEST_SUITE_P(Cut, LayoutTest, ::testing::ValuesIn(LayoutGridCut()),
                         [](const ::testing::TestParamInfo<LayoutCase>& info) { return info.param.TestName(); });

void ExpectSameBits(const LayoutOutcome& outcome, const LayoutOutcome& one) {
  EXPECT_EQ(outcome.losses, one.losses);
  EXPECT_EQ(outcome.norms, one.norms);
  EXPECT_TRUE(SameBits(outcome, one));
}

TEST(LayoutBitsTest, APipelineAloneChangesNoBit) {
  for (const Conditioning conditioning : {kZero, kPlain, kCross, kInContext}) {
    const LayoutOutcome one = TrainLayout({.conditioning = conditioning, .micro_batch = 4, .steps = 4});
    for (LayoutCase layout : {LayoutCase{.pp = 2}, LayoutCase{.pp = 3, .schedule = ScheduleKind::kGpipe},
                              LayoutCase{.pp = 2, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 3},
                              LayoutCase{.pp = 3, .schedule = ScheduleKind::kZeroBubbleH1}}) {
      layout.conditioning = conditioning;
      layout.micro_batch = 4;
      layout.steps = 4;
      SCOPED_TRACE(layout.Text());
      ExpectSameBits(TrainLayout(layout), one);
    }
  }
}

TEST(LayoutBitsTest, DeterministicModeChangesNoBit) {
  const LayoutOutcome one = TrainLayout({.deterministic = true, .steps = 4});
  for (LayoutCase layout : {LayoutCase{.dp = 2}, LayoutCase{.dp = 4}, LayoutCase{.dp = 8},
                            LayoutCase{.dp = 2, .zero_stage = 1}, LayoutCase{.dp = 4, .zero_stage = 2},
                            LayoutCase{.dp = 2, .zero_stage = 3}, LayoutCase{.pp = 2, .dp = 4, .zero_stage = 3},
                            LayoutCase{.pp = 3, .dp = 2, .schedule = ScheduleKind::kZeroBubbleH1}}) {
    layout.deterministic = true;
    layout.steps = 4;
    SCOPED_TRACE(layout.Text());
    ExpectSameBits(TrainLayout(layout), one);
  }
}

// The tensor axis orders sums in its own way; beside it, the other axes change nothing.
TEST(LayoutBitsTest, DeterministicModeChangesNoBitBesideATensorAxis) {
  const LayoutCase base{
      .conditioning = kInContext, .tp = 2, .sequence_parallel = true, .deterministic = true, .steps = 4};
  const LayoutOutcome one = TrainLayout(base);
  for (const LayoutCase& change : {LayoutCase{.dp = 2}, LayoutCase{.dp = 4, .zero_stage = 2},
                                   LayoutCase{.pp = 2, .dp = 2, .zero_stage = 3}, LayoutCase{.pp = 3}}) {
    LayoutCase layout = base;
    layout.pp = change.pp;
    layout.dp = change.dp;
    layout.zero_stage = change.zero_stage;
    SCOPED_TRACE(layout.Text());
    ExpectSameBits(TrainLayout(layout), one);
  }
}

TEST(LayoutBitsTest, TheSameLayoutTwiceChangesNoBit) {
  const LayoutCase layout{.pp = 2, .dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 2, .steps = 4};
  ExpectSameBits(TrainLayout(layout), TrainLayout(layout));
}

TEST(LayoutTrafficTest, BucketsLeaveInOneOrderBeforeBackwardEnds) {
  for (const int zero_stage : {0, 1, 2}) {
    const LayoutOutcome outcome = TrainLayout({.dp = 2, .zero_stage = zero_stage, .steps = 3});
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
  const DitConfig config = LayoutCase().Model();
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
