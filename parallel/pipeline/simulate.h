// When each action of a pipeline schedule runs, from what passes and messages cost: for planning, and for drawing what
// is planned. A pure function; the rules are the executor's: a rank runs its actions in order, each as soon as what it
// needs has arrived, and messages cost the sender nothing.
#pragma once

#include <vector>

#include "parallel/pipeline/schedule.h"

namespace shardit {

// Seconds of one micro-batch on one global stage.
struct StageCost {
  double forward = 0;
  double backward = 0;  // gradients of inputs
  double weights = 0;   // gradients of weights; a full backward takes the sum of both
};

struct SimulatedSpan {
  PipelineAction action;
  double begin = 0, end = 0;  // seconds since the first rank began
};

struct SimulatedPipeline {
  std::vector<std::vector<SimulatedSpan>> ranks;  // in the order of each rank's actions
  double makespan = 0;                            // seconds, until the last rank is done
  double idle_fraction = 0;                       // of ranks * makespan
};

// `stages` has spec.stages() entries, in the order of global stages; `message_seconds` passes between the end of an
// action and the arrival of its result on the next rank. Time and memory are linear in the number of actions.
SimulatedPipeline SimulateSchedule(const PipelineSpec& spec, const std::vector<StageCost>& stages,
                                   double message_seconds = 0);

}  // namespace shardit
