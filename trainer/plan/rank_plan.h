// PlanRank: a training step of one rank of any layout, run without memory or messages (RankContext::Planning,
// FakeCommunicator): the same TrainState and TrainStep as in training, so that memory, bytes and the order of events
// are theirs by construction.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "core/base/cost_recorder.h"
#include "core/tensor/allocator.h"
#include "parallel/mesh.h"
#include "parallel/pipeline/simulate.h"
#include "trainer/plan/cluster_figures.h"
#include "trainer/plan/planned_network.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/sharding.h"

namespace shardit {

// Bytes that a rank sends in one step along each axis, as ring bytes. `data` leaves control messages (losses, norm)
// out.
struct AxisBytes {
  int64_t dp = 0, tp = 0, pp = 0;
  friend bool operator==(const AxisBytes&, const AxisBytes&) = default;
};

struct RankPlan {
  MeshCoords coords;
  std::vector<UnitRange> parts;
  int64_t parameters = 0;  // elements that this rank computes with, padding excluded
  int64_t padded = 0;      // with padding: the flat range
  int64_t per_token = 0;   // of the flat range: gradients that are partial where tokens are cut

  AllocatorStats memory;      // high-water mark over two steps
  AxisBytes sent, sent_data;  // in the second step

  // Of the second step, on cores of the rank's own.
  std::vector<StageCost> costs;            // by part: mean over micro-batches, waits for the tensor axis included
  int64_t boundary_bytes = 0;              // that one micro-batch sends to the next stage, at most over the parts
  double seconds = 0;                      // without waiting for other stages
  double passes_seconds = 0;               // forward, backward and weight passes
  double update_seconds = 0;               // norm, optimizer, EMA
  std::array<double, kPlanAxes> waited{};  // exposed communication
  std::map<std::string_view, CostRecorder::Total> kernels;
};

// `options` are resolved for shape.ranks() ranks. Steps of more than a few rounds of micro-batches are planned from
// shorter ones: all that is counted grows evenly with their number once the pipeline is full.
RankPlan PlanRank(const RunOptions& options, const MeshShape& shape, const MeshCoords& coords,
                  const ClusterFigures& figures, const RankPlacement& placement);

// By pipeline stage: the first one that runs the same units, of the same ends of the chain. It holds at least as much
// memory as the later ones, which have as many micro-batches in flight or fewer.
std::vector<int> FirstAlike(const RunOptions& options, const MeshShape& shape);

}  // namespace shardit
