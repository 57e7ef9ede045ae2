#include "parallel/pipeline/schedule.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/base/math.h"

namespace shardit {
namespace {

using Actions = std::vector<PipelineAction>;

// Forward number k of a rank, and backward number k; k counts (part, micro-batch) pairs. Micro-batches go in groups of
// `ranks`: a group passes through all parts before the next one starts.
PipelineAction ForwardAt(const PipelineSpec& spec, int k) {
  const int group = k / spec.stages(), within = k % spec.stages();
  return {ActionKind::kForward, within / spec.ranks, group * spec.ranks + within % spec.ranks};
}
PipelineAction BackwardAt(const PipelineSpec& spec, int k) {
  const PipelineAction forward = ForwardAt(spec, k);
  return {ActionKind::kBackward, spec.parts - 1 - forward.part, forward.micro_batch};
}

Actions Gpipe(const PipelineSpec& spec, int rank) {
  Actions actions;
  for (int i = 0; i < spec.micro_batches; ++i) actions.push_back({ActionKind::kForward, 0, i});
  for (int i = 0; i < spec.micro_batches; ++i) actions.push_back({ActionKind::kBackward, 0, i});
  return actions;
}

Actions OneFOneB(const PipelineSpec& spec, int rank) {
  Actions actions;
  const int m = spec.micro_batches, warm_up = std::min(spec.ranks - rank - 1, m);
  for (int i = 0; i < m + warm_up; ++i) {
    if (i < m) actions.push_back({ActionKind::kForward, 0, i});
    if (i >= warm_up) actions.push_back({ActionKind::kBackward, 0, i - warm_up});
  }
  return actions;
}

// A last group of fewer than `ranks` micro-batches would need an order of its own: with the rule for full groups, ranks
// could wait for each other in a cycle. It is scheduled as a full one, and what belongs to micro-batches that do not
// exist is left out: that takes away waits and adds none.
Actions Interleaved(const PipelineSpec& spec, int rank) {
  if (spec.parts == 1) return OneFOneB(spec, rank);
  const int padded = static_cast<int>(RoundUp(spec.micro_batches, spec.ranks));
  const int total = padded * spec.parts;
  const int warm_up = std::min(2 * (spec.ranks - rank - 1) + (spec.parts - 1) * spec.ranks, total);
  Actions actions;
  const auto add = [&](const PipelineAction& action) {
    if (action.micro_batch < spec.micro_batches) actions.push_back(action);
  };
  for (int k = 0; k < total + warm_up; ++k) {
    if (k < total) add(ForwardAt(spec, k));
    if (k >= warm_up) add(BackwardAt(spec, k - warm_up));
  }
  return actions;
}

// Rank r has p - r activations in flight in 1F1B; leaving the weight gradients of r micro-batches for later brings
// every rank to the p of the first, and frees the end of the step of waits.
Actions ZeroBubbleH1(const PipelineSpec& spec, int rank) {
  Actions actions;
  for (const PipelineAction& action : OneFOneB(spec, rank)) {
    if (action.kind == ActionKind::kForward) {
      actions.push_back(action);
      continue;
    }
    actions.push_back({ActionKind::kBackwardInput, 0, action.micro_batch});
    if (action.micro_batch >= rank) actions.push_back({ActionKind::kWeights, 0, action.micro_batch - rank});
  }
  for (int i = std::max(0, spec.micro_batches - rank); i < spec.micro_batches; ++i) {
    actions.push_back({ActionKind::kWeights, 0, i});
  }
  return actions;
}

struct KindRow {
  std::string_view name;
  Actions (*schedule)(const PipelineSpec& spec, int rank);
};
// In the order of ScheduleKind.
constexpr KindRow kKinds[] = {
    {"GPIPE", Gpipe}, {"ONE_F_ONE_B", OneFOneB}, {"INTERLEAVED", Interleaved}, {"ZERO_BUBBLE_H1", ZeroBubbleH1}};

}  // namespace

std::string_view Name(ScheduleKind kind) { return kKinds[static_cast<int>(kind)].name; }

std::vector<PipelineAction> Schedule(const PipelineSpec& spec, int rank) {
  CHECK(spec.ranks >= 1 && spec.micro_batches >= 1 && spec.parts >= 1)
      << "[schedule] ranks " << spec.ranks << ", micro-batches " << spec.micro_batches << ", parts " << spec.parts;
  CHECK(spec.parts == 1 || spec.kind == ScheduleKind::kInterleaved)
      << "[schedule] " << Name(spec.kind) << " has one part a rank, got " << spec.parts;
  CHECK(rank >= 0 && rank < spec.ranks) << "[schedule] rank " << rank << " of " << spec.ranks;
  return kKinds[static_cast<int>(spec.kind)].schedule(spec, rank);
}

InFlight PeakInFlight(std::span<const PipelineAction> actions) {
  InFlight now, peak;
  for (const PipelineAction& action : actions) {
    now.until_backward += action.kind == ActionKind::kForward;
    now.until_weights += action.kind == ActionKind::kForward;
    peak.until_backward = std::max(peak.until_backward, now.until_backward);
    peak.until_weights = std::max(peak.until_weights, now.until_weights);
    now.until_backward -= action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput;
    now.until_weights -= action.kind == ActionKind::kBackward || action.kind == ActionKind::kWeights;
  }
  return peak;
}

}  // namespace shardit
