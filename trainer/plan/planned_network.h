// PlannedNetwork: when the collectives of a planned rank arrive, and how long it waited for them. Each communicator is
// a queue of its own; a collective starts when it is issued and those before it are done.
//
//   time = rounds * latency + ring bytes / bandwidth,  rounds = ceil(log2 n), twice that for an all-reduce
// Messages between pipeline stages take no time here: when they arrive is the other rank's doing, and the simulator's
// (parallel/pipeline/simulate.h).
#pragma once

#include <map>
#include <string>

#include "core/base/cost_recorder.h"
#include "parallel/comm/fake_comm.h"
#include "parallel/mesh.h"
#include "trainer/plan/cluster_figures.h"

namespace shardit {

// The mesh axis of a communicator of a step, by its name: "dp", "dp parameters" and so on belong to dp; what belongs to
// none is the world's.
enum class PlanAxis : uint8_t { kDp, kTp, kPp, kWorld };
inline constexpr int kPlanAxes = 4;
PlanAxis AxisOf(const std::string& communicator);

class PlannedNetwork : public FakeNetwork {
 public:
  // `clock` outlives it.
  PlannedNetwork(const ClusterFigures& figures, const RankPlacement& placement, const MeshShape& shape,
                 CostRecorder* clock);

  double Issue(const FakeCommunicator& axis, const CollectiveSpec& spec) override;
  void WaitUntil(const FakeCommunicator& axis, double time) override;

  // Seconds that the rank waited for collectives of an axis, so far.
  double waited(PlanAxis axis) const { return waited_[static_cast<size_t>(axis)]; }
  const LinkFigures& link(PlanAxis axis) const { return links_[static_cast<size_t>(axis)]; }

 private:
  CostRecorder* const clock_;
  LinkFigures links_[kPlanAxes];
  std::map<std::string, double> free_at_;  // by communicator
  double waited_[kPlanAxes] = {};
};

}  // namespace shardit
