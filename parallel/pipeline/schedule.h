// Pipeline schedules: what each rank of a pipeline does in which order. Pure functions, no communication; one executor
// runs any of them (parallel/pipeline/executor.h), and one simulator times them (parallel/pipeline/simulate.h).
//
//   kGpipe         all forwards, then all backwards.                            Huang et al., arXiv 1811.06965,
//   sec. 2.3 kOneFOneB      warm-up, then one forward and one backward in turn, and a flush.
//                                                                          Narayanan et al., arXiv 2104.04473,
//                                                                          sec. 2.2.1
//   kInterleaved   1F1B over several model parts a rank.                                         the same, sec. 2.2.2
//   kZeroBubbleH1  1F1B with weight gradients put off into what was its bubble.  Qi et al., arXiv 2401.10241, sec. 2.2
//
// p ranks, m micro-batches, v parts a rank; F, B, W the time of a part's forward, input gradients and weight gradients.
// Idle time over busy time where F = B = W; parts of one micro-batch in flight, at most, on rank r:
//
//                   idle / busy             forward without backward           forward without weight gradients
//   kGpipe          (p - 1) / m             m                                  m
//   kOneFOneB       (p - 1) / m             p - r                              p - r
//   kInterleaved    (p - 1) / (v m) [1]     2 (p - r - 1) + (v - 1) p + 1      the same
//   kZeroBubbleH1   (p - 1) / (3 m) [2]     p - r                              p: what 1F1B holds on its first rank
//
// [1] m a multiple of p; else no longer than with the next multiple. [2] m >= p; else (2 (p - 1) - (m - 1)) / (3 m).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace shardit {

enum class ScheduleKind : uint8_t { kGpipe, kOneFOneB, kInterleaved, kZeroBubbleH1 };
inline constexpr ScheduleKind kScheduleKinds[] = {ScheduleKind::kGpipe, ScheduleKind::kOneFOneB,
                                                  ScheduleKind::kInterleaved, ScheduleKind::kZeroBubbleH1};

// "GPIPE", "ONE_F_ONE_B", "INTERLEAVED", "ZERO_BUBBLE_H1".
std::string_view Name(ScheduleKind kind);

struct PipelineSpec {
  ScheduleKind kind = ScheduleKind::kOneFOneB;
  int ranks = 1;          // >= 1
  int micro_batches = 1;  // >= 1
  int parts = 1;          // >= 1; model parts a rank; 1 unless kInterleaved

  // Global stages: part q of rank r is stage q * ranks + r, so that a micro-batch goes around the ranks once a part.
  int stages() const { return ranks * parts; }
};

enum class ActionKind : uint8_t {
  kForward,
  kBackward,       // gradients of inputs and weights
  kBackwardInput,  // of inputs only; a kWeights of the same part and micro-batch follows
  kWeights
};

struct PipelineAction {
  ActionKind kind = ActionKind::kForward;
  int part = 0;
  int micro_batch = 0;
  friend bool operator==(const PipelineAction&, const PipelineAction&) = default;
};

// The actions of one rank, in order. Whatever the spec:
// - every part forwards, then backwards every micro-batch once, and gradients of a part are made in the order of
//   micro-batches, so that sums over them do not depend on the schedule;
// - all ranks forward in one common order of (part, micro-batch), and backward in another: messages between two ranks
//   in one direction are therefore sent and needed in the same order;
// - run in these orders, no ranks ever wait for each other in a cycle, even if a rank may only send ahead one message
//   in each direction.
// CHECKs the spec.
std::vector<PipelineAction> Schedule(const PipelineSpec& spec, int rank);

// The most (part, micro-batch) pairs that a rank holds at once when it runs `actions`.
struct InFlight {
  int until_backward = 0;  // between forward and backward (of inputs): whole activations
  int until_weights = 0;   // between forward and weight gradients
};
InFlight PeakInFlight(std::span<const PipelineAction> actions);

}  // namespace shardit
