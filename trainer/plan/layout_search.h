// LayoutSearch: which layout of a given world trains fastest. Every combination of pp, dp, tp, sequence parallelism,
// ZeRO stage, schedule, virtual stages, micro-batch and recomputation that training takes (CheckLayout) is estimated in
// closed form from the costs of single units; the best few are then planned (trainer/plan/run_plan.h) and ordered by
// what the plan says.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/plan/run_plan.h"

namespace shardit {

// A layout that was estimated, not planned.
struct LayoutEstimate {
  ParallelOptions parallel;
  int64_t micro_batch = 0;
  double seconds = 0;
  int64_t peak_bytes = 0;
  bool fits = true;
  // Parts of `seconds`.
  double compute = 0, tp_exposed = 0, pp_bubble = 0, dp_exposed = 0, optimizer = 0, shared_cores = 0;
};

// A family of layouts (no pipeline, ZeRO stage 0, ...) beside the best.
struct LayoutFamily {
  std::string name;
  bool holds_best = false;  // the best layout of all is one of them
  bool possible = false;    // some layout of it divides model and batch
  LayoutEstimate best;      // the fastest that fits, else the one that needs the least memory
  std::string why_not;      // in words
};

struct LayoutSearchResult {
  RunPlan best;
  std::vector<RunPlan> finalists;  // planned, fastest first; best is the first
  std::vector<LayoutFamily> families;
  std::string why_best;  // in words
  int64_t estimated = 0, too_large = 0;
};

// Searches the layouts of `world` ranks. `options` give model, global batch and everything else that stays; its
// parallel section and micro_batch are replaced, bucket size kept. ResourceExhausted where nothing fits, with the
// layout that needs least; InvalidArgument where nothing divides.
absl::StatusOr<LayoutSearchResult> SearchLayouts(const RunOptions& options, int64_t world,
                                                 const ClusterFigures& figures);

// "dp 4 tp 2 pp 2 sp zero 1 INTERLEAVED x 2 micro 8 recompute FULL": without what is not used.
std::string LayoutName(const ParallelOptions& parallel, int64_t micro_batch);

}  // namespace shardit
