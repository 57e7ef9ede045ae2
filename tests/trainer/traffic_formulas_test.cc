// The bytes that ranks count against the closed forms of trainer/plan/closed_forms.h, as integers. Slices of a ring are
// not all equal, so one rank may send some elements more than its neighbour; summed over the axis, every form is exact.
#include <cmath>
#include <string>
#include <vector>

#include "core/base/math.h"
#include "gtest/gtest.h"
#include "tests/trainer/layout_case.h"
#include "trainer/plan/closed_forms.h"

namespace shardit {
namespace {

constexpr Conditioning kDesigns[] = {Conditioning::kAdaLnZero, Conditioning::kAdaLn, Conditioning::kCrossAttention,
                                     Conditioning::kInContext};
constexpr int kRanks[] = {2, 3, 4, 8};

RunOptions OptionsOf(const LayoutCase& layout) {
  RunOptions options;
  options.model = layout.Model();
  options.parallel = {.dp = layout.dp,
                      .tp = layout.tp,
                      .pp = layout.pp,
                      .zero_stage = layout.zero_stage,
                      .sequence_parallel = layout.sequence_parallel,
                      .schedule = layout.schedule,
                      .virtual_stages = layout.virtual_stages,
                      .recompute = layout.recompute};
  options.train.global_batch = kLayoutBatch;
  options.train.micro_batch = layout.ResolvedMicroBatch();
  options.train.deterministic = layout.deterministic;
  return options;
}

// A sum of forms is an integer up to the rounding of doubles.
void ExpectEqual(int64_t counted, double form) {
  EXPECT_NEAR(form, std::round(form), 1e-4);
  EXPECT_EQ(counted, std::llround(form));
}

void ExpectForms(LayoutCase layout) {
  layout.steps = 1;
  layout.depth = 9;
  layout.heads = 24;  // 2, 3, 4 and 8 divide it
  SCOPED_TRACE(layout.Text());
  const LayoutOutcome outcome = TrainLayout(layout);
  const RunOptions options = OptionsOf(layout);
  const MeshShape shape{layout.pp, layout.dp, layout.tp};
  DataBytes counted;
  double dp = 0, tp = 0, pp = 0;
  for (const LayoutOutcome::Rank& rank : outcome.ranks) {
    RankPlan plan;
    plan.coords = rank.coords;
    plan.parts = rank.parts;
    plan.padded = rank.padded;
    plan.per_token = rank.per_token;
    const ClosedForms forms = FormulasOf(options, shape, plan);
    ExpectEqual(rank.sent.pp, forms.pp.bytes);
    counted.dp += rank.sent.dp;
    counted.tp += rank.sent.tp;
    counted.pp += rank.sent.pp;
    dp += forms.dp.bytes;
    tp += forms.tp.bytes;
    pp += forms.pp.bytes;
  }
  ExpectEqual(counted.dp, dp);
  ExpectEqual(counted.tp, tp);
  ExpectEqual(counted.pp, pp);
  EXPECT_EQ(counted.dp > 0, layout.dp > 1);
  EXPECT_EQ(counted.tp > 0, layout.tp > 1);
  EXPECT_EQ(counted.pp > 0, layout.pp > 1);
}

// The range that the forms of the data axis speak of: every parameter, each up to the next multiple of 256 elements.
TEST(TrafficFormulas, TheFlatRangeIsTheParametersWithTheirPadding) {
  for (const Conditioning conditioning : kDesigns) {
    const LayoutCase layout{.conditioning = conditioning, .dp = 2, .steps = 1};
    int64_t padded = 0;
    const Dit model(layout.Model());
    for (const auto& parameter : model.parameters().all()) {
      padded += RoundUp(parameter->shape.elements(), FlatLayout::kAlignment);
    }
    EXPECT_EQ(TrainLayout(layout).ranks[0].padded, padded);
  }
}

TEST(TrafficFormulas, DataAxisInEveryStage) {
  for (const int n : kRanks) {
    for (const int zero_stage : {0, 1, 2, 3}) {
      const Conditioning conditioning = kDesigns[(n + zero_stage) % 4];
      for (const int64_t micro_batch : {int64_t{0}, int64_t{1}}) {
        ExpectForms({.conditioning = conditioning, .dp = n, .zero_stage = zero_stage, .micro_batch = micro_batch});
      }
    }
  }
}

TEST(TrafficFormulas, TensorAxisWithTokensWhole) {
  for (const Conditioning conditioning : kDesigns) {
    for (const int n : kRanks) ExpectForms({.conditioning = conditioning, .tp = n, .micro_batch = 8});
  }
}

TEST(TrafficFormulas, TensorAxisWithTokensCut) {
  for (const Conditioning conditioning : kDesigns) {
    for (const int n : kRanks) {
      ExpectForms({.conditioning = conditioning, .tp = n, .sequence_parallel = true, .micro_batch = 8});
    }
  }
}

TEST(TrafficFormulas, TensorAxisWithRecomputation) {
  for (const Conditioning conditioning : kDesigns) {
    for (const RecomputeMode recompute : {RecomputeMode::kSelective, RecomputeMode::kFull}) {
      for (const bool cut : {false, true}) {
        ExpectForms({.conditioning = conditioning,
                     .tp = 2,
                     .sequence_parallel = cut,
                     .recompute = recompute,
                     .micro_batch = 12});
      }
    }
  }
}

TEST(TrafficFormulas, PipelineAxis) {
  for (const int n : kRanks) {
    for (const ScheduleKind schedule : {ScheduleKind::kGpipe, ScheduleKind::kOneFOneB, ScheduleKind::kZeroBubbleH1}) {
      ExpectForms({.conditioning = kDesigns[static_cast<size_t>(n + static_cast<int>(schedule)) % 4],
                   .pp = n,
                   .schedule = schedule});
    }
  }
  ExpectForms({.pp = 2, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 4});
  ExpectForms({.conditioning = Conditioning::kCrossAttention,
               .pp = 3,
               .schedule = ScheduleKind::kInterleaved,
               .virtual_stages = 3});
}

TEST(TrafficFormulas, AxesTogether) {
  for (const Conditioning conditioning : kDesigns) {
    ExpectForms({.conditioning = conditioning, .dp = 2, .tp = 2, .zero_stage = 1});
    ExpectForms(
        {.conditioning = conditioning, .dp = 2, .tp = 3, .sequence_parallel = true, .zero_stage = 2, .micro_batch = 4});
    ExpectForms({.conditioning = conditioning,
                 .pp = 2,
                 .dp = 2,
                 .tp = 2,
                 .sequence_parallel = true,
                 .zero_stage = 3,
                 .schedule = ScheduleKind::kInterleaved,
                 .virtual_stages = 2,
                 .recompute = RecomputeMode::kFull});
    ExpectForms({.conditioning = conditioning, .pp = 3, .tp = 2, .schedule = ScheduleKind::kZeroBubbleH1});
  }
}

TEST(TrafficFormulas, DeterministicMode) {
  ExpectForms({.dp = 2, .tp = 2, .sequence_parallel = true, .deterministic = true});
  ExpectForms({.dp = 4, .zero_stage = 1, .deterministic = true});
  ExpectForms({.dp = 4, .zero_stage = 2, .deterministic = true});
}

}  // namespace
}  // namespace shardit
