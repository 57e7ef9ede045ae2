// Schedules: properties of every kind over many pipelines, and the simulator's times against the closed forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/simulate.h"

namespace shardit {
namespace {

std::string Describe(const PipelineSpec& spec) {
  return absl::StrCat(std::string(Name(spec.kind)), " p", spec.ranks, " m", spec.micro_batches, " v", spec.parts);
}

std::vector<PipelineSpec> Specs() {
  std::vector<PipelineSpec> specs;
  for (const ScheduleKind kind : kScheduleKinds) {
    const int most_parts = kind == ScheduleKind::kInterleaved ? 4 : 1;
    for (int p = 1; p <= 8; ++p) {
      for (int m = 1; m <= 17; ++m) {
        for (int v = 1; v <= most_parts; ++v) specs.push_back({kind, p, m, v});
      }
    }
  }
  return specs;
}

bool IsBackward(const PipelineAction& action) {
  return action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput;
}

TEST(Schedule, EveryPassRunsOnceInOrder) {
  for (const PipelineSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    for (int rank = 0; rank < spec.ranks; ++rank) {
      // What has been done of (part, micro-batch): 0 nothing, 1 forward, 2 gradients of inputs, 3 all.
      std::map<std::pair<int, int>, int> done;
      std::map<int, int> weights_done;  // part -> micro-batches
      for (const PipelineAction& action : Schedule(spec, rank)) {
        int& state = done[{action.part, action.micro_batch}];
        const int needs = action.kind == ActionKind::kForward ? 0 : IsBackward(action) ? 1 : 2;
        ASSERT_EQ(state, needs);
        state = action.kind == ActionKind::kBackward ? 3 : needs + 1;
        if (state == 3) {
          ASSERT_EQ(weights_done[action.part]++, action.micro_batch) << "weights' order";
        }
      }
      ASSERT_EQ(static_cast<int>(done.size()), spec.parts * spec.micro_batches);
      for (const auto& [key, state] : done) ASSERT_EQ(state, 3);
    }
  }
}

// Stage and micro-batch of each message that a rank sends forward (or backward), in the order of its actions, by the
// receiving stage.
using Message = std::pair<int, int>;
std::vector<Message> Sends(const PipelineSpec& spec, int rank, bool forward) {
  std::vector<Message> messages;
  for (const PipelineAction& action : Schedule(spec, rank)) {
    if (forward ? action.kind != ActionKind::kForward : !IsBackward(action)) continue;
    const int to = action.part * spec.ranks + rank + (forward ? 1 : -1);
    if (to >= 0 && to < spec.stages()) messages.push_back({to, action.micro_batch});
  }
  return messages;
}
std::vector<Message> Receives(const PipelineSpec& spec, int rank, bool forward) {
  std::vector<Message> messages;
  for (const PipelineAction& action : Schedule(spec, rank)) {
    if (forward ? action.kind != ActionKind::kForward : !IsBackward(action)) continue;
    const int stage = action.part * spec.ranks + rank;
    if (stage != (forward ? 0 : spec.stages() - 1)) messages.push_back({stage, action.micro_batch});
  }
  return messages;
}

TEST(Schedule, NeighboursSendAndNeedInOneOrder) {
  for (const PipelineSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    for (int rank = 0; rank < spec.ranks; ++rank) {
      const int next = (rank + 1) % spec.ranks;
      ASSERT_EQ(Sends(spec, rank, true), Receives(spec, next, true));
      ASSERT_EQ(Sends(spec, next, false), Receives(spec, rank, false));
    }
  }
}

// Runs all ranks with links (sender, direction) that hold `capacity` messages, or any number where it is 0: a rank that
// would send into a full link waits, and a message leaves its link when its receiver begins the action that needs it.
// Returns the number of actions that never ran.
int ActionsLeft(const PipelineSpec& spec, int capacity, bool forward_only) {
  std::map<std::tuple<int, bool>, int> sent, taken;
  std::vector<std::vector<PipelineAction>> actions(spec.ranks);
  std::vector<size_t> next(spec.ranks, 0);
  std::vector<bool> started(spec.ranks, false);
  int left = 0;
  for (int rank = 0; rank < spec.ranks; ++rank) {
    actions[rank] = Schedule(spec, rank);
    if (forward_only) std::erase_if(actions[rank], [](const auto& a) { return a.kind != ActionKind::kForward; });
    left += static_cast<int>(actions[rank].size());
  }
  const int p = spec.ranks;
  const auto advance = [&](int rank) {
    if (next[rank] == actions[rank].size()) return false;
    const PipelineAction& action = actions[rank][next[rank]];
    const bool forward = action.kind == ActionKind::kForward, messages = action.kind != ActionKind::kWeights;
    const int stage = action.part * p + rank;
    if (messages && !started[rank] && stage != (forward ? 0 : spec.stages() - 1)) {
      const std::tuple link{forward ? (rank + p - 1) % p : (rank + 1) % p, forward};
      if (taken[link] == sent[link]) return false;
      ++taken[link];
    }
    started[rank] = true;
    if (messages && stage != (forward ? spec.stages() - 1 : 0)) {
      const std::tuple link{rank, forward};
      if (capacity > 0 && sent[link] - taken[link] == capacity) return false;
      ++sent[link];
    }
    started[rank] = false;
    ++next[rank];
    return true;
  };
  for (bool progress = true; progress;) {
    progress = false;
    for (int rank = 0; rank < p; ++rank) {
      while (advance(rank)) {
        progress = true;
        --left;
      }
    }
  }
  return left;
}

TEST(Schedule, RanksNeverWaitInACycle) {
  for (const PipelineSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    ASSERT_EQ(ActionsLeft(spec, 0, false), 0);
    if (spec.ranks == 1) continue;  // no links
    ASSERT_EQ(ActionsLeft(spec, 1, false), 0);
    ASSERT_EQ(ActionsLeft(spec, 1, true), 0);
  }
}

TEST(Schedule, ActivationsInFlight) {
  for (const PipelineSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    const int p = spec.ranks, m = spec.micro_batches, v = spec.parts;
    for (int rank = 0; rank < p; ++rank) {
      SCOPED_TRACE(rank);
      const InFlight peak = PeakInFlight(Schedule(spec, rank));
      switch (spec.kind) {
        case ScheduleKind::kGpipe:
          ASSERT_EQ(peak.until_backward, m);
          ASSERT_EQ(peak.until_weights, m);
          break;
        case ScheduleKind::kOneFOneB:
          ASSERT_EQ(peak.until_backward, std::min(p - rank, m));
          ASSERT_EQ(peak.until_weights, std::min(p - rank, m));
          break;
        case ScheduleKind::kInterleaved: {
          const int bound = v == 1 ? p - rank : 2 * (p - rank - 1) + (v - 1) * p + 1;
          ASSERT_LE(peak.until_backward, std::min(bound, v * m));
          ASSERT_EQ(peak.until_backward, peak.until_weights);
          if (m % p == 0) {
            ASSERT_EQ(peak.until_backward, std::min(bound, v * m));
          }
          break;
        }
        case ScheduleKind::kZeroBubbleH1:
          ASSERT_EQ(peak.until_backward, std::min(p - rank, m));
          ASSERT_EQ(peak.until_weights, std::min(p, m)) << "1F1B's on its first rank";
          break;
      }
    }
  }
}

TEST(Schedule, OnePartInterleavedIsOneFOneB) {
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(Schedule({ScheduleKind::kInterleaved, 4, 6, 1}, rank),
              Schedule({ScheduleKind::kOneFOneB, 4, 6, 1}, rank));
  }
}

TEST(Schedule, ZeroBubbleOfTheLastRank) {
  using enum ActionKind;
  const std::vector<PipelineAction> expected{{kForward, 0, 0},       {kBackwardInput, 0, 0}, {kForward, 0, 1},
                                             {kBackwardInput, 0, 1}, {kWeights, 0, 0},       {kForward, 0, 2},
                                             {kBackwardInput, 0, 2}, {kWeights, 0, 1},       {kWeights, 0, 2}};
  EXPECT_EQ(Schedule({ScheduleKind::kZeroBubbleH1, 2, 3, 1}, 1), expected);
}

// Idle time of a rank where F = B = W = 1, in these units.
double IdleTime(const PipelineSpec& spec) {
  const SimulatedPipeline run = SimulateSchedule(spec, std::vector<StageCost>(spec.stages(), {1, 1, 1}));
  const double busy = 3.0 * spec.micro_batches * spec.parts;
  EXPECT_DOUBLE_EQ(run.idle_fraction, 1 - busy / run.makespan);
  return run.makespan - busy;
}

TEST(SimulateSchedule, IdleTimeIsTheFormulas) {
  for (const PipelineSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    const int p = spec.ranks, m = spec.micro_batches;
    const double idle = IdleTime(spec);
    switch (spec.kind) {
      case ScheduleKind::kGpipe:
      case ScheduleKind::kOneFOneB:
        ASSERT_EQ(idle, 3 * (p - 1));
        break;
      case ScheduleKind::kInterleaved:
        if (m % p == 0) {
          ASSERT_EQ(idle, 3 * (p - 1));  // parts are 1 / v of a rank's work
        } else {
          const int padded = (m / p + 1) * p;
          ASSERT_LE(idle + 3 * m * spec.parts, 3 * (p - 1) + 3 * padded * spec.parts);
          ASSERT_LE(idle, 3 * (p - 1) * spec.parts) << "no worse than 1F1B";
        }
        break;
      case ScheduleKind::kZeroBubbleH1:
        ASSERT_EQ(idle, std::max(p - 1, 2 * (p - 1) - (m - 1)));
        break;
    }
  }
}

TEST(SimulateSchedule, UnevenStagesAndMessages) {
  // Two ranks, one micro-batch: a chain.
  const PipelineSpec spec{ScheduleKind::kOneFOneB, 2, 1, 1};
  const SimulatedPipeline run = SimulateSchedule(spec, {{2, 3, 4}, {5, 6, 7}}, 0.5);
  ASSERT_EQ(run.ranks[0].size(), 2u);
  EXPECT_DOUBLE_EQ(run.ranks[1][0].begin, 2.5);
  EXPECT_DOUBLE_EQ(run.ranks[1][1].end, 2.5 + 5 + 13);
  EXPECT_DOUBLE_EQ(run.ranks[0][1].begin, 21);
  EXPECT_DOUBLE_EQ(run.makespan, 28);
  EXPECT_DOUBLE_EQ(run.idle_fraction, 1 - (9 + 18) / 56.0);
  // With weights put off, the first rank's backward starts 7 earlier, and both ranks' ends are weight gradients.
  const SimulatedPipeline split = SimulateSchedule({ScheduleKind::kZeroBubbleH1, 2, 1, 1}, {{2, 3, 4}, {5, 6, 7}}, 0.5);
  EXPECT_DOUBLE_EQ(split.ranks[0][1].begin, 14);
  EXPECT_DOUBLE_EQ(split.makespan, 21);
}

TEST(SimulateSchedule, MessagesWithinARankAreFree) {
  const PipelineSpec spec{ScheduleKind::kInterleaved, 1, 3, 2};
  const SimulatedPipeline run = SimulateSchedule(spec, {{1, 1, 1}, {2, 2, 2}}, 100);
  EXPECT_DOUBLE_EQ(run.makespan, 3 * 9);
  EXPECT_DOUBLE_EQ(run.idle_fraction, 0);
}

}  // namespace
}  // namespace shardit
