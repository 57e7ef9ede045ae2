// UnitCosts: what one unit of each kind (embedding, block, final layer) costs a rank, by planning it alone. From these
// a search estimates thousands of layouts without planning each.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "trainer/plan/cluster_figures.h"
#include "trainer/plan/rank_plan.h"

namespace shardit {

struct UnitCost {
  double forward = 0, backward = 0, weights = 0;  // seconds, waits for the tensor axis included
  double waited = 0;                              // of these, for the tensor axis
  int64_t saved_bytes = 0;                        // kept from forward to backward
  int64_t working_bytes = 0;                      // on top of that, at most, in either pass
  int64_t parameters = 0;                         // elements on this rank
  int64_t tp_bytes = 0;                           // sent over the tensor axis
};

struct UnitCosts {
  UnitCost embedding, block, final_layer;
};

// Remembers what it has planned. One owner thread.
class UnitCostCache {
 public:
  // `figures` outlives it. The placement is that of every layout asked for.
  UnitCostCache(const RunOptions& options, const ClusterFigures& figures, const RankPlacement& placement);

  const UnitCosts& Get(int tp, bool sequence_parallel, int64_t micro_batch, RecomputeMode recompute);

 private:
  using Key = std::tuple<int, bool, int64_t, RecomputeMode>;

  const RunOptions options_;
  const ClusterFigures& figures_;
  const RankPlacement placement_;
  std::map<int, std::unique_ptr<Dit>> models_;  // of one block, narrowed, by tp
  std::map<Key, UnitCosts> costs_;
};

}  // namespace shardit
