// Runs one rank's part of a pipeline: its actions in the order of the schedule, with the messages between stages.
//
// Messages. What a stage returns goes to the next rank (gradients: to the previous) while the next action computes.
// Receives are posted kReceivesAhead messages ahead of need, into buffers from the context's allocator, which the stage
// then owns. A sent tensor is kept until its message has left; a rank that is kSendsAhead messages ahead of a neighbour
// waits, which bounds that memory and, by the order of schedules, never ends in a cycle of waits. Within one rank (a
// pipeline axis of size 1) results are handed on and nothing is sent.
//
// Bytes. A boundary and micro-batch sends its tensors forward once and their gradients back once.
//
// Timeline. A span for every pass, kWait while a message is missing, kCommunication for each message, where it is sent:
// receives are posted long before their message exists, so theirs would say nothing.
//
// Failure: as the communicator's; a stage that returns other shapes than the next one expects is our mistake.
#pragma once

#include <vector>

#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/stage.h"

namespace shardit {

class PipelineExecutor {
 public:
  static constexpr int kReceivesAhead = 4;  // messages of both directions
  static constexpr int kSendsAhead = 2;     // messages of each direction

  // spec.ranks is pp.size(). `pp` and `context` outlive the executor; all ranks of pp run the same spec.
  PipelineExecutor(const PipelineSpec& spec, Communicator& pp, RankContext& context);

  // Collective over pp: one training step's passes, all micro-batches. Returns when this rank's actions are done and
  // its sends have left. `stage` has spec.parts parts.
  void Run(PipelineStage& stage);

  // Collective over pp: forwards only, of `micro_batches` micro-batches (>= 1, need not be the spec's). For evaluation,
  // with a stage whose Forward keeps nothing for a backward.
  void RunForward(PipelineStage& stage, int micro_batches);

 private:
  const PipelineSpec spec_;
  Communicator& pp_;
  RankContext& context_;
  const std::vector<PipelineAction> actions_;
};

}  // namespace shardit
