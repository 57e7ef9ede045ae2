// ClusterFigures: what a planner knows of the machines a run would use: how fast a device computes and reads memory,
// how much of it there is, and what messages cost inside a node and between nodes. Given (launch/cluster_file.h) or
// measured (trainer/plan/measure_machine.h). Plain values and pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/cost_recorder.h"
#include "parallel/mesh.h"

namespace shardit {

struct LinkFigures {
  double latency_seconds = 0;   // of one message
  double bytes_per_second = 0;  // that one rank sends while all do
};

struct ClusterFigures {
  std::string name;
  // Devices are processor cores: the ranks of a node share them out, more ranks than cores take turns, and moving
  // messages takes their time too. Else every rank has a device of its own.
  bool devices_are_cores = false;
  int64_t devices_per_node = 1;
  int64_t nodes = 0;  // 0: as many as the ranks fill; of cores: one

  // Of one device.
  double peak_flops = 0;       // per second, at the precision of the run
  double gemm_efficiency = 1;  // the part of the peak that large products reach
  double attention_efficiency = 1;
  double memory_bytes_per_second = 0;  // read and written
  int64_t memory_bytes = 0;
  double kernel_seconds = 0;  // the least time of a kernel

  LinkFigures intra_node, inter_node;
};

// How the ranks of a world lie on the machines, in order, node by node.
struct RankPlacement {
  int64_t nodes = 1;
  int64_t ranks_per_node = 1;
  int64_t threads = 1;          // cores that a rank computes on; 1 where a device is not a core
  double oversubscription = 1;  // ranks times threads over cores, at least 1
  int64_t memory_bytes = 0;     // of a rank
};

// `threads` as in train.threads: 0 is the rank's share. InvalidArgument where the cluster has fewer devices than ranks.
absl::StatusOr<RankPlacement> PlaceRanks(const ClusterFigures& figures, int64_t world, int64_t threads);

// Seconds of a kernel on a rank whose cores are its own: the longer of its operations and its memory traffic.
CostRecorder::Price PriceOf(const ClusterFigures& figures, const RankPlacement& placement);

// The link that an axis of the mesh uses: inside a node only if all its ranks lie in one.
const LinkFigures& LinkOf(const ClusterFigures& figures, const RankPlacement& placement, int64_t stride, int64_t size);

}  // namespace shardit
