// Whole training steps on GPUs, cut in every way, beside the same run on one CPU rank: the steps that are issued one by
// one and those that a graph repeats.
#include "core/cuda/device_query.h"
#include "gtest/gtest.h"
#include "tests/cuda/wants_gpus.h"
#include "tests/trainer/layout_grid.h"

namespace shardit {
namespace {

constexpr int kSteps = 5;  // two as they come, then the recording and its replays

LayoutCase Small(LayoutCase layout) {
  layout.steps = kSteps;
  layout.depth = 2;
  layout.heads = 4;
  return layout;
}

std::vector<LayoutCase> Layouts() {
  return {
      Small({}),
      Small({.conditioning = Conditioning::kCrossAttention, .micro_batch = 12}),
      Small({.conditioning = Conditioning::kInContext, .recompute = RecomputeMode::kSelective}),
      Small({.conditioning = Conditioning::kAdaLn, .recompute = RecomputeMode::kFull}),
      Small({.dp = 2, .deterministic = true}),
      Small({.dp = 2, .zero_stage = 1, .micro_batch = 6}),
      Small({.dp = 2, .zero_stage = 2, .micro_batch = 6}),
      Small({.dp = 2, .zero_stage = 3, .recompute = RecomputeMode::kFull}),
      Small({.tp = 2}),
      Small({.tp = 2, .sequence_parallel = true}),
      Small({.conditioning = Conditioning::kInContext, .tp = 2, .sequence_parallel = true}),
      Small({.pp = 2, .schedule = ScheduleKind::kZeroBubbleH1}),
      Small({.conditioning = Conditioning::kCrossAttention, .pp = 2}),
      Small({.dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 1}),
  };
}

LayoutOutcome Train(LayoutCase layout, const OnGpu& gpu) {
  layout.gpu = gpu;
  return TrainLayout(layout);
}

LayoutCase OneRankOf(const LayoutCase& layout) {
  return Small({.conditioning = layout.conditioning, .deterministic = layout.deterministic});
}

class CudaLayoutTest : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPUS(kOnEmulator ? GetParam().world() : 1);
    // Without NCCL there is no graph; on one device ranks are staged.
    recordable_ = GetParam().world() <= static_cast<int>(cuda::Devices().size());
  }
  bool recordable_ = false;
};

TEST_P(CudaLayoutTest, Fp32IsTheRunOfOneCpuRank) {
  const LayoutCase layout = GetParam();
  const LayoutOutcome cpu = TrainLayout(OneRankOf(layout)), gpu = Train(layout, {});
  EXPECT_LT(RelativeDistance(gpu.losses, cpu.losses), 1e-5);
  EXPECT_LT(RelativeDistance(gpu.norms, cpu.norms), 1e-4);
  std::string worst;
  EXPECT_LT(RelativeDistance(gpu.gradients, cpu.gradients, &worst), 2e-5) << worst;
  EXPECT_LT(RelativeDistance(gpu.state.weights, cpu.state.weights, &worst), 1e-3) << worst;
}

TEST_P(CudaLayoutTest, GraphsRepeatTheStepToTheBit) {
  const LayoutCase layout = GetParam();
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const LayoutOutcome eager = Train(layout, {.precision = precision, .graph = false});
    const LayoutOutcome graph = Train(layout, {.precision = precision, .graph = true});
    EXPECT_TRUE(SameBits(graph, eager)) << layout.Text();
    for (size_t r = 0; r < graph.ranks.size(); ++r) {
      const LayoutOutcome::Rank &replayed = graph.ranks[r], &issued = eager.ranks[r];
      EXPECT_EQ(replayed.graph_nodes > 0, recordable_);
      EXPECT_EQ(issued.graph_nodes, 0);
      // The last step of a graph counts what the same step, issued, sends.
      EXPECT_EQ(replayed.sent.dp, issued.sent.dp);
      EXPECT_EQ(replayed.sent.tp, issued.sent.tp);
      EXPECT_EQ(replayed.sent.pp, issued.sent.pp);
      for (const LayoutOutcome::Rank* rank : {&replayed, &issued}) {
        EXPECT_EQ(rank->memory.system_allocations, rank->allocations_after_two);
      }
    }
  }
}

// No twin is at hand for whole steps: bounds that a wrong cast or a lost term would break, and rounding does not.
TEST_P(CudaLayoutTest, Bf16StaysBesideFp32) {
  const LayoutCase layout = GetParam();
  const LayoutOutcome fp32 = TrainLayout(OneRankOf(layout)), bf16 = Train(layout, {.precision = Precision::kBf16});
  EXPECT_LT(RelativeDistance(bf16.losses, fp32.losses), 5e-3);
  EXPECT_GT(RelativeDistance(bf16.losses, fp32.losses), 1e-7);  // it did compute in bf16
  std::string worst;
  EXPECT_LT(RelativeDistance(bf16.gradients, fp32.gradients, &worst), 0.08) << worst;
}

// As runs tune: products are timed in the first step, beside receives that wait for sends behind such timings.
TEST(CudaPipelineTest, TunesBesideReceivesThatWait) {
  for (LayoutCase layout :
       {Small({.pp = 2}), Small({.pp = 2, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 2})}) {
    SKIP_WITHOUT_GPUS(layout.world());
    layout.depth = 4;
    layout.steps = 1;
    SCOPED_TRACE(layout.Text());
    LayoutCase one = OneRankOf(layout);
    one.depth = layout.depth;
    one.steps = layout.steps;
    const LayoutOutcome cpu = TrainLayout(one);
    EXPECT_LT(RelativeDistance(Train(layout, {.tune = true}).losses, cpu.losses), 1e-5);
    EXPECT_LT(RelativeDistance(Train(layout, {.precision = Precision::kBf16, .tune = true}).losses, cpu.losses), 5e-3);
  }
}

class CudaDeterministicTest : public ::testing::TestWithParam<Precision> {};

// On one kind of GPU, as on CPUs.
TEST_P(CudaDeterministicTest, LayoutsHaveOneRanksBits) {
  SKIP_WITHOUT_GPUS(1);
  const OnGpu gpu{.precision = GetParam()};
  const LayoutOutcome one = Train(Small({.deterministic = true}), gpu);
  for (LayoutCase layout : {Small({.dp = 2}), Small({.dp = 2, .zero_stage = 1}), Small({.dp = 2, .zero_stage = 3}),
                            Small({.pp = 2}), Small({.dp = 4, .zero_stage = 2})}) {
    layout.deterministic = true;
    EXPECT_TRUE(SameBits(Train(layout, gpu), one)) << layout.Text();
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, CudaDeterministicTest, ::testing::Values(Precision::kFp32, Precision::kBf16),
                         [](const ::testing::TestParamInfo<Precision>& info) {
                           return info.param == Precision::kFp32 ? "FP32" : "BF16";
                         });

INSTANTIATE_TEST_SUITE_P(Layouts, CudaLayoutTest, ::testing::ValuesIn(Layouts()),
                         [](const ::testing::TestParamInfo<LayoutCase>& info) { return info.param.TestName(); });

}  // namespace
}  // namespace shardit
