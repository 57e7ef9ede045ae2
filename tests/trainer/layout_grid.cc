#include "tests/trainer/layout_grid.h"

#include <algorithm>
#include <tuple>

namespace shardit {
namespace {

constexpr Conditioning kZero = Conditioning::kAdaLnZero, kPlain = Conditioning::kAdaLn,
                       kCross = Conditioning::kCrossAttention, kInContext = Conditioning::kInContext;
constexpr ScheduleKind kGpipe = ScheduleKind::kGpipe, k1F1B = ScheduleKind::kOneFOneB,
                       kInterleaved = ScheduleKind::kInterleaved, kH1 = ScheduleKind::kZeroBubbleH1;
constexpr RecomputeMode kSelective = RecomputeMode::kSelective, kFull = RecomputeMode::kFull;

LayoutCase Of(Conditioning conditioning, int pp, int dp, int tp, int zero_stage = 0, int64_t micro_batch = 0,
              RecomputeMode recompute = RecomputeMode::kNone) {
  return {.conditioning = conditioning,
          .pp = pp,
          .dp = dp,
          .tp = tp,
          .zero_stage = zero_stage,
          .recompute = recompute,
          .micro_batch = micro_batch};
}
// Sequence parallel: 16 tokens over 3 ranks, and 18 in context over 4, leave uneven parts.
LayoutCase Sp(LayoutCase layout) {
  layout.sequence_parallel = true;
  return layout;
}
LayoutCase By(ScheduleKind schedule, LayoutCase layout, int virtual_stages = 1) {
  layout.schedule = schedule;
  layout.virtual_stages = virtual_stages;
  return layout;
}
LayoutCase Deterministic(LayoutCase layout) {
  layout.deterministic = true;
  return layout;
}

std::vector<LayoutCase> Cut() {
  return {
      // conditioning, pp, dp, tp, ZeRO stage, micro-batch, recompute
      Of(kZero, 1, 2, 1),
      Of(kZero, 1, 2, 1, 1, 4),
      Of(kCross, 1, 2, 1, 2, 4),
      Of(kZero, 1, 1, 2),
      Of(kCross, 1, 1, 2),
      Sp(Of(kZero, 1, 1, 2, 0, 0, kFull)),
      Sp(Of(kCross, 1, 1, 2, 0, 0, kSelective)),
      Of(kInContext, 1, 3, 1, 0, 2),
      Of(kZero, 1, 3, 1, 3, 0, kFull),
      Of(kPlain, 1, 1, 3),
      Sp(Of(kPlain, 1, 1, 3, 0, 8)),
      Of(kInContext, 1, 1, 4),
      Sp(Of(kInContext, 1, 1, 4)),
      By(kGpipe, Of(kPlain, 3, 2, 1)),
      By(kInterleaved, Of(kZero, 3, 1, 2, 0, 0, kFull), 2),
      Sp(By(k1F1B, Of(kZero, 2, 2, 2, 3))),
      Sp(By(kH1, Of(kCross, 2, 2, 2, 2))),
      By(kInterleaved, Of(kInContext, 2, 2, 2, 1, 0, kSelective), 3),
  };
}

std::vector<LayoutCase> Rest() {
  return {
      // conditioning, pp, dp, tp, ZeRO stage, micro-batch, recompute
      Of(kInContext, 1, 2, 1, 3, 4),
      Of(kPlain, 1, 2, 1, 3, 0, kSelective),
      By(kGpipe, Of(kZero, 2, 1, 1)),
      By(k1F1B, Of(kPlain, 2, 1, 1)),
      By(kInterleaved, Of(kCross, 2, 1, 1), 3),
      By(kInterleaved, Of(kZero, 2, 1, 1, 0, 0, kFull), 2),
      By(kH1, Of(kInContext, 2, 1, 1)),
      By(kH1, Of(kCross, 2, 1, 1, 0, 3, kSelective)),

      Of(kCross, 1, 3, 1, 1),
      Sp(Of(kZero, 1, 1, 3)),
      Sp(Of(kInContext, 1, 1, 3, 0, 6, kSelective)),
      By(kH1, Of(kZero, 3, 1, 1)),
      By(kInterleaved, Of(kPlain, 3, 1, 1), 2),
      By(kGpipe, Of(kCross, 3, 1, 1, 0, 2, kFull)),

      Of(kZero, 1, 4, 1, 2, 2),
      Of(kPlain, 1, 4, 1, 3, 3),
      Deterministic(Of(kZero, 1, 4, 1, 1)),
      Sp(Of(kZero, 1, 1, 4, 0, 6)),
      Of(kInContext, 1, 2, 2, 1),
      Of(kCross, 1, 2, 2, 3),
      Sp(Of(kZero, 1, 2, 2, 3, 4, kFull)),
      Sp(Of(kPlain, 1, 2, 2, 2, 6)),
      By(k1F1B, Of(kZero, 4, 1, 1)),
      By(kH1, Of(kInContext, 4, 1, 1)),
      By(kGpipe, Of(kCross, 4, 1, 1, 0, 2, kSelective)),
      By(k1F1B, Of(kZero, 2, 2, 1, 1)),
      By(kInterleaved, Of(kPlain, 2, 2, 1, 3), 2),
      Sp(By(k1F1B, Of(kInContext, 2, 1, 2))),
      Sp(By(kH1, Of(kZero, 2, 1, 2, 0, 0, kFull))),
      By(kInterleaved, Of(kCross, 2, 1, 2), 3),

      Of(kZero, 1, 3, 2, 1, 4),
      Sp(Of(kCross, 1, 3, 2, 2, 4)),
      Sp(Of(kInContext, 1, 2, 3, 3, 6)),
      Sp(Of(kPlain, 1, 1, 6, 0, 12, kFull)),
      By(kH1, Of(kZero, 2, 3, 1, 3)),
      By(kInterleaved, Of(kCross, 3, 2, 1, 2), 2),
      Sp(By(kInterleaved, Of(kInContext, 2, 1, 3), 2)),
      Of(kPlain, 1, 6, 1, 3, 2),
      By(k1F1B, Of(kZero, 6, 1, 1)),

      Of(kZero, 1, 8, 1),
      Of(kInContext, 1, 8, 1, 3, 1),
      Deterministic(Of(kPlain, 1, 8, 1, 2)),
      Sp(Of(kPlain, 1, 4, 2, 2, 3)),
      Of(kCross, 1, 2, 4, 1),
      Sp(Of(kZero, 1, 2, 4, 3, 6, kFull)),
      By(kH1, Of(kPlain, 4, 2, 1, 1)),
      Sp(By(kGpipe, Of(kCross, 4, 1, 2))),
      By(k1F1B, Of(kInContext, 4, 2, 1, 3, 0, kFull)),
      Sp(By(k1F1B, Of(kZero, 2, 1, 4))),
      Sp(By(kInterleaved, Of(kPlain, 2, 2, 2, 3, 0, kSelective), 2)),
      By(kH1, Of(kZero, 2, 4, 1, 2)),
      By(kGpipe, Of(kInContext, 2, 2, 2, 2, 2)),

      // Fewer micro-batches than stages, and numbers that the stages do not divide.
      By(kH1, Of(kPlain, 2, 1, 1, 0, 24)),
      By(kInterleaved, Of(kZero, 3, 1, 1, 0, 6), 2),
      By(kInterleaved, Of(kCross, 3, 1, 1, 0, 24), 2),
      By(k1F1B, Of(kInContext, 4, 1, 1, 0, 12)),
      By(kH1, Of(kZero, 3, 2, 1, 3, 12)),
      Sp(Deterministic(By(k1F1B, Of(kInContext, 2, 2, 2, 3)))),
  };
}

}  // namespace

std::vector<LayoutCase> LayoutGridCut() { return Cut(); }

std::vector<LayoutCase> LayoutGrid() {
  std::vector<LayoutCase> all = Cut();
  for (const LayoutCase& layout : Rest()) all.push_back(layout);
  std::stable_sort(all.begin(), all.end(),
                   [](const LayoutCase& a, const LayoutCase& b) { return a.world() < b.world(); });
  return all;
}

bool SameBits(const LayoutOutcome& a, const LayoutOutcome& b) {
  return a.losses == b.losses && a.norms == b.norms && a.gradients == b.gradients && a.state == b.state;
}

const LayoutOutcome& LayoutComparison::OneRank(const LayoutCase& like, int64_t micro_batch,
                                               const std::optional<OnGpu>& gpu) {
  const auto [found, missing] = one_rank_.try_emplace({like.conditioning, micro_batch, like.steps, gpu.has_value()});
  if (missing) {
    found->second =
        TrainLayout({.conditioning = like.conditioning, .micro_batch = micro_batch, .steps = like.steps, .gpu = gpu});
  }
  return found->second;
}

LayoutComparison::Result LayoutComparison::Compare(const LayoutCase& layout) {
  Result result{.outcome = TrainLayout(layout), .distance = {}};
  const LayoutOutcome& one = OneRank(layout, kLayoutBatch, std::nullopt);
  LayoutDistance& distance = result.distance;
  distance.loss = RelativeDistance(result.outcome.losses, one.losses);
  distance.norm = RelativeDistance(result.outcome.norms, one.norms);
  distance.gradient = RelativeDistance(result.outcome.gradients, one.gradients, &distance.gradient_name);
  if (layout.dp == 1 && layout.tp == 1 && !layout.deterministic) {
    distance.same_bits = SameBits(result.outcome, OneRank(layout, layout.ResolvedMicroBatch(), layout.gpu));
  }
  return result;
}

}  // namespace shardit
