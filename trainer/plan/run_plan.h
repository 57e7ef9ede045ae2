// RunPlan: a training run on any world: memory of every rank by owner, bytes sent, and an estimate of the step's time
// with what it consists of. Nothing of the model's size is allocated.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/pipeline/simulate.h"
#include "trainer/plan/closed_forms.h"
#include "trainer/plan/cluster_figures.h"
#include "trainer/plan/rank_plan.h"

namespace shardit {

// Where the seconds of a step go, on the rank that the others wait for. They add up to `total`.
struct StepEstimate {
  double compute = 0;       // of passes, waits for the tensor axis excluded
  double tp_exposed = 0;    // waits for the tensor axis
  double pp_bubble = 0;     // waits for other stages
  double dp_exposed = 0;    // waits for gradients and weights
  double optimizer = 0;     // norm, update, EMA
  double shared_cores = 0;  // waits for cores that other ranks of the node use
  double total = 0;

  double images_per_second = 0;
  double model_flops_per_second = 0;  // of all ranks together; recomputation not counted
  double mfu = 0;                     // of the peak of the devices used
};

struct RunPlan {
  RunOptions options;  // resolved
  MeshShape shape;
  RankPlacement placement;
  int64_t micro_batches = 0;
  int64_t parameters = 0;  // of the whole model; the fixed position table left out

  // One rank of each pipeline stage, the one with the largest shards (dp 0, tp 0), in order. Middle stages of long
  // pipelines that hold as many blocks as an earlier one are taken to cost what that one costs; its memory bounds
  // theirs.
  std::vector<RankPlan> ranks;
  std::vector<ClosedForms> formulas;  // by rank of `ranks`
  size_t fullest = 0;                 // index of the rank with the most memory
  bool fits = true;                   // in the memory of its device, with room for kernels' scratch and messages

  StepEstimate step;
  SimulatedPipeline chart;  // of the first few micro-batches

  const RankPlan& largest() const { return ranks[fullest]; }
};

// `options` are resolved for `shape`.
absl::StatusOr<RunPlan> PlanRun(const RunOptions& options, const ClusterFigures& figures);

// The part of a device's memory that the allocator may fill; the rest is for scratch, messages and the program.
inline constexpr double kUsableMemory = 0.92;

}  // namespace shardit
