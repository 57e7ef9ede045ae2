#include "parallel/pipeline/simulate.h"

#include <algorithm>

#include "core/base/check.h"

namespace shardit {
namespace {

constexpr double kNotYet = -1;

class Simulation {
 public:
  Simulation(const PipelineSpec& spec, const std::vector<StageCost>& stages, double message_seconds)
      : spec_(spec),
        stages_(stages),
        message_seconds_(spec.ranks > 1 ? message_seconds : 0),
        forward_end_(spec.stages() * static_cast<size_t>(spec.micro_batches), kNotYet),
        backward_end_(forward_end_) {}

  SimulatedPipeline Run() {
    std::vector<std::vector<PipelineAction>> actions;
    size_t left = 0;
    for (int rank = 0; rank < spec_.ranks; ++rank) {
      actions.push_back(Schedule(spec_, rank));
      left += actions.back().size();
    }
    result_.ranks.resize(spec_.ranks);
    while (left > 0) {
      const size_t before = left;
      for (int rank = 0; rank < spec_.ranks; ++rank) {
        while (result_.ranks[rank].size() < actions[rank].size() &&
               RunAction(rank, actions[rank][result_.ranks[rank].size()])) {
          --left;
        }
      }
      CHECK(left < before) << "[simulate] " << Name(spec_.kind) << ": ranks wait for each other in a cycle";
    }
    Summarise();
    return std::move(result_);
  }

 private:
  double& ForwardEnd(int stage, int micro_batch) { return forward_end_[stage * spec_.micro_batches + micro_batch]; }
  double& BackwardEnd(int stage, int micro_batch) { return backward_end_[stage * spec_.micro_batches + micro_batch]; }

  // When what the action needs from the neighbouring stage is there; kNotYet where that has not been simulated.
  double Ready(const PipelineAction& action, int stage) {
    double sent = 0;
    if (action.kind == ActionKind::kForward) {
      if (stage == 0) return 0;
      sent = ForwardEnd(stage - 1, action.micro_batch);
    } else if (action.kind == ActionKind::kWeights || stage == spec_.stages() - 1) {
      return 0;
    } else {
      sent = BackwardEnd(stage + 1, action.micro_batch);
    }
    return sent == kNotYet ? kNotYet : sent + message_seconds_;
  }

  double Seconds(ActionKind kind, int stage) const {
    const StageCost& cost = stages_[stage];
    switch (kind) {
      case ActionKind::kForward:
        return cost.forward;
      case ActionKind::kBackward:
        return cost.backward + cost.weights;
      case ActionKind::kBackwardInput:
        return cost.backward;
      case ActionKind::kWeights:
        return cost.weights;
    }
    return 0;
  }

  bool RunAction(int rank, const PipelineAction& action) {
    const int stage = action.part * spec_.ranks + rank;
    const double ready = Ready(action, stage);
    if (ready == kNotYet) return false;
    std::vector<SimulatedSpan>& spans = result_.ranks[rank];
    const double begin = std::max(ready, spans.empty() ? 0.0 : spans.back().end);
    const double end = begin + Seconds(action.kind, stage);
    spans.push_back({action, begin, end});
    if (action.kind == ActionKind::kForward) {
      ForwardEnd(stage, action.micro_batch) = end;
    } else if (action.kind != ActionKind::kWeights) {
      BackwardEnd(stage, action.micro_batch) = end;
    }
    return true;
  }

  void Summarise() {
    double busy = 0;
    for (const auto& spans : result_.ranks) {
      for (const SimulatedSpan& span : spans) busy += span.end - span.begin;
      result_.makespan = std::max(result_.makespan, spans.back().end);
    }
    if (result_.makespan > 0) result_.idle_fraction = 1 - busy / (spec_.ranks * result_.makespan);
  }

  const PipelineSpec& spec_;
  const std::vector<StageCost>& stages_;
  const double message_seconds_;
  std::vector<double> forward_end_, backward_end_;  // of [stage][micro-batch]
  SimulatedPipeline result_;
};

}  // namespace

SimulatedPipeline SimulateSchedule(const PipelineSpec& spec, const std::vector<StageCost>& stages,
                                   double message_seconds) {
  CHECK_EQ(static_cast<int>(stages.size()), spec.stages()) << "[simulate] costs, one a global stage";
  return Simulation(spec, stages, message_seconds).Run();
}

}  // namespace shardit
