// The closed-form estimate behind LayoutSearch. Private to trainer/plan.
#pragma once

#include "trainer/plan/layout_search.h"
#include "trainer/plan/unit_costs.h"

namespace shardit {

// `parallel` divides model and batch. Pure but for the cache.
LayoutEstimate EstimateLayout(const RunOptions& options, const ParallelOptions& parallel, int64_t micro_batch,
                              const ClusterFigures& figures, const RankPlacement& placement, UnitCostCache& units);

}  // namespace shardit
