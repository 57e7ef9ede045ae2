#include "trainer/plan/planned_network.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/match.h"

namespace shardit {
namespace {

int Rounds(CollectiveKind kind, int ranks) {
  const int rounds = std::bit_width(static_cast<unsigned>(ranks - 1));
  return kind == CollectiveKind::kAllReduce ? 2 * rounds : rounds;
}

}  // namespace

PlanAxis AxisOf(const std::string& communicator) {
  if (absl::StartsWith(communicator, "dp")) return PlanAxis::kDp;
  if (absl::StartsWith(communicator, "tp")) return PlanAxis::kTp;
  if (absl::StartsWith(communicator, "pp")) return PlanAxis::kPp;
  return PlanAxis::kWorld;
}

PlannedNetwork::PlannedNetwork(const ClusterFigures& figures, const RankPlacement& placement, const MeshShape& shape,
                               CostRecorder* clock)
    : clock_(clock) {
  const auto set = [&](PlanAxis axis, int64_t stride, int64_t size) {
    links_[static_cast<size_t>(axis)] = LinkOf(figures, placement, stride, size);
  };
  set(PlanAxis::kTp, 1, shape.tp);
  set(PlanAxis::kDp, shape.tp, shape.dp);
  set(PlanAxis::kPp, int64_t{shape.tp} * shape.dp, shape.pp);
  set(PlanAxis::kWorld, 1, shape.ranks());
}

double PlannedNetwork::Issue(const FakeCommunicator& axis, const CollectiveSpec& spec) {
  const double now = clock_->seconds();
  if (axis.size() == 1 || spec.kind == CollectiveKind::kSend || spec.kind == CollectiveKind::kRecv) return now;
  const LinkFigures& link = links_[static_cast<size_t>(AxisOf(axis.name()))];
  const int64_t bytes = RingBytes(spec.kind, spec.offsets, axis.rank(), axis.size(), std::max(0, spec.peer));
  double& free_at = free_at_[axis.name()];
  free_at = std::max(now, free_at) + Rounds(spec.kind, axis.size()) * link.latency_seconds +
            static_cast<double>(bytes) / link.bytes_per_second;
  return free_at;
}

void PlannedNetwork::WaitUntil(const FakeCommunicator& axis, double time) {
  waited_[static_cast<size_t>(AxisOf(axis.name()))] += std::max(0.0, time - clock_->seconds());
  clock_->AdvanceTo(time);
}

}  // namespace shardit
