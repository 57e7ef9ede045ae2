#include "trainer/plan/cluster_figures.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/math.h"

namespace shardit {

absl::StatusOr<RankPlacement> PlaceRanks(const ClusterFigures& figures, int64_t world, int64_t threads) {
  RankPlacement placement;
  if (!figures.devices_are_cores) {
    placement.ranks_per_node = std::min(world, figures.devices_per_node);
    placement.nodes = CeilDiv(world, placement.ranks_per_node);
    placement.memory_bytes = figures.memory_bytes;
    if (figures.nodes > 0 && placement.nodes > figures.nodes) {
      return absl::InvalidArgumentError(absl::StrCat("cluster ", figures.name, ": ", world, " ranks need ",
                                                     placement.nodes, " nodes of ", figures.devices_per_node,
                                                     " devices, it has ", figures.nodes, "; plan a smaller world"));
    }
    return placement;
  }
  placement.nodes = std::min(world, std::max<int64_t>(1, figures.nodes));
  placement.ranks_per_node = CeilDiv(world, placement.nodes);
  const int64_t share = std::max<int64_t>(1, figures.devices_per_node / placement.ranks_per_node);
  placement.threads = threads == 0 ? share : threads;
  const double wanted = static_cast<double>(placement.threads * placement.ranks_per_node);
  placement.oversubscription = std::max(1.0, wanted / static_cast<double>(figures.devices_per_node));
  placement.memory_bytes = figures.memory_bytes * figures.devices_per_node / placement.ranks_per_node;
  return placement;
}

CostRecorder::Price PriceOf(const ClusterFigures& figures, const RankPlacement& placement) {
  const double devices = static_cast<double>(placement.threads);
  const double gemm = devices * figures.peak_flops * figures.gemm_efficiency;
  const double attention = devices * figures.peak_flops * figures.attention_efficiency;
  const double memory = devices * figures.memory_bytes_per_second, least = figures.kernel_seconds;
  return [=](const KernelCost& cost) {
    const double rate = absl::StartsWith(cost.kernel, "attention") ? attention : gemm;
    return least + std::max(cost.flops / rate, cost.bytes / memory);
  };
}

const LinkFigures& LinkOf(const ClusterFigures& figures, const RankPlacement& placement, int64_t stride, int64_t size) {
  const bool one_node = placement.nodes == 1 || stride * size <= placement.ranks_per_node;
  return one_node ? figures.intra_node : figures.inter_node;
}

}  // namespace shardit
