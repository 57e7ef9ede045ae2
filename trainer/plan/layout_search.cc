#include "trainer/plan/layout_search.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "trainer/plan/layout_estimate.h"
#include "trainer/run_config/check_layout.h"

namespace shardit {
namespace {

constexpr size_t kFinalists = 8;    // planned layouts that fit
constexpr size_t kMaxPlanned = 24;  // planned layouts
constexpr int64_t kMaxVirtualStages = 8;
constexpr double kTie = 1.01;  // step times that count as equal: the simpler layout wins

std::vector<int64_t> Divisors(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t i = 1; i <= n / i; ++i) {
    if (n % i != 0) continue;
    divisors.push_back(i);
    if (i != n / i) divisors.push_back(n / i);
  }
  std::sort(divisors.begin(), divisors.end());
  return divisors;
}

// Micro-batches that divide the local batch; in deterministic mode the one that virtual shards allow.
std::vector<int64_t> MicroBatches(const TrainOptions& train, int64_t dp) {
  if (train.global_batch % dp != 0) return {};
  if (train.deterministic) return {train.global_batch / train.virtual_shards};
  return Divisors(train.global_batch / dp);
}

// GPIPE is left out: 1F1B takes the same time and holds fewer activations.
std::vector<std::pair<ScheduleKind, int64_t>> Schedules(int64_t pp, int64_t depth) {
  std::vector<std::pair<ScheduleKind, int64_t>> schedules{{ScheduleKind::kOneFOneB, 1}};
  if (pp == 1) return schedules;
  schedules.emplace_back(ScheduleKind::kZeroBubbleH1, 1);
  for (int64_t parts = 2; parts <= kMaxVirtualStages && parts * pp <= depth; ++parts) {
    schedules.emplace_back(ScheduleKind::kInterleaved, parts);
  }
  return schedules;
}

// Calls `visit` for every layout that training takes; loops leave early where nothing inside of them would be.
void ForEachLayout(const RunOptions& options, int64_t world,
                   const std::function<void(const ParallelOptions&, int64_t micro_batch)>& visit) {
  const DitConfig& model = options.model;
  TrainOptions train = options.train;
  for (const int64_t pp : Divisors(world)) {
    if (pp > model.depth) continue;
    for (const int64_t tp : Divisors(world / pp)) {
      if (model.heads % tp != 0) continue;
      ParallelOptions layout = options.parallel;
      layout.pp = pp;
      layout.tp = tp;
      layout.dp = world / pp / tp;
      for (const int64_t micro_batch : MicroBatches(options.train, layout.dp)) {
        train.micro_batch = micro_batch;
        for (const auto& [schedule, parts] : Schedules(pp, model.depth)) {
          layout.schedule = schedule;
          layout.virtual_stages = parts;
          for (const bool cut : {false, true}) {
            if (cut && tp == 1) continue;
            layout.sequence_parallel = cut;
            for (layout.zero_stage = 0; layout.zero_stage <= (layout.dp == 1 ? 0 : 3); ++layout.zero_stage) {
              for (const RecomputeMode mode : {RecomputeMode::kNone, RecomputeMode::kSelective, RecomputeMode::kFull}) {
                layout.recompute = mode;
                if (CheckLayout(model, layout, train).ok()) visit(layout, micro_batch);
              }
            }
          }
        }
      }
    }
  }
}

// Smaller is simpler.
auto Complexity(const ParallelOptions& layout) {
  return std::tuple(layout.pp * layout.tp, layout.pp, layout.recompute, layout.zero_stage, layout.virtual_stages,
                    layout.sequence_parallel, layout.schedule);
}

bool Faster(const LayoutEstimate& a, const LayoutEstimate& b) {
  return std::tuple(a.seconds, Complexity(a.parallel), -a.micro_batch) <
         std::tuple(b.seconds, Complexity(b.parallel), -b.micro_batch);
}

std::string Gib(double bytes) { return absl::StrFormat("%.3g GiB", bytes / (int64_t{1} << 30)); }

struct Term {
  const char* name;
  double LayoutEstimate::*seconds;
};
constexpr Term kTerms[] = {{"compute", &LayoutEstimate::compute},
                           {"exposed tensor-parallel communication", &LayoutEstimate::tp_exposed},
                           {"pipeline bubble", &LayoutEstimate::pp_bubble},
                           {"exposed data-parallel communication", &LayoutEstimate::dp_exposed},
                           {"optimizer", &LayoutEstimate::optimizer},
                           {"waiting for shared cores", &LayoutEstimate::shared_cores}};

std::string WhyNot(const LayoutFamily& family, const LayoutEstimate& best, int64_t memory) {
  if (!family.possible) return "divides neither the ranks nor the model";
  if (family.holds_best) return "the best layout is one";
  if (!family.best.fits) {
    return absl::StrCat("does not fit: at least ", Gib(static_cast<double>(family.best.peak_bytes)),
                        " a rank, which has ", Gib(kUsableMemory * static_cast<double>(memory)), " of use");
  }
  const Term* worst = &kTerms[0];
  for (const Term& term : kTerms) {
    if (family.best.*term.seconds - best.*term.seconds > family.best.*worst->seconds - best.*worst->seconds) {
      worst = &term;
    }
  }
  return absl::StrFormat("%.2f times the step: %s %.3g s against %.3g s", family.best.seconds / best.seconds,
                         worst->name, family.best.*worst->seconds, best.*worst->seconds);
}

// The families that are compared with the best.
struct FamilyRule {
  const char* name;
  bool (*holds)(const ParallelOptions& layout);
};
constexpr FamilyRule kFamilies[] = {
    {"data parallel, ZeRO 0", [](const ParallelOptions& l) { return l.pp == 1 && l.tp == 1 && l.zero_stage == 0; }},
    {"data parallel, ZeRO 1 or 2",
     [](const ParallelOptions& l) { return l.pp == 1 && l.tp == 1 && (l.zero_stage == 1 || l.zero_stage == 2); }},
    {"data parallel, ZeRO 3", [](const ParallelOptions& l) { return l.pp == 1 && l.tp == 1 && l.zero_stage == 3; }},
    {"tensor parallel", [](const ParallelOptions& l) { return l.pp == 1 && l.tp > 1; }},
    {"pipeline", [](const ParallelOptions& l) { return l.pp > 1 && l.tp == 1; }},
    {"tensor parallel and pipeline", [](const ParallelOptions& l) { return l.pp > 1 && l.tp > 1; }},
    {"without recomputation", [](const ParallelOptions& l) { return l.recompute == RecomputeMode::kNone; }},
};

struct Estimates {
  std::vector<LayoutEstimate> fitting;
  std::vector<LayoutFamily> families;
  LayoutEstimate smallest{.peak_bytes = std::numeric_limits<int64_t>::max()};
  int64_t count = 0;
};

void AddTo(LayoutFamily& family, const LayoutEstimate& estimate) {
  const bool better = !family.possible || (estimate.fits && !family.best.fits) ||
                      (estimate.fits && Faster(estimate, family.best)) ||
                      (!estimate.fits && !family.best.fits && estimate.peak_bytes < family.best.peak_bytes);
  if (better) family.best = estimate;
  family.possible = true;
}

Estimates EstimateAll(const RunOptions& options, int64_t world, const ClusterFigures& figures,
                      const RankPlacement& placement) {
  Estimates all;
  UnitCostCache units(options, figures, placement);
  for (const FamilyRule& rule : kFamilies) all.families.push_back({.name = rule.name});
  ForEachLayout(options, world, [&](const ParallelOptions& layout, int64_t micro_batch) {
    const LayoutEstimate estimate = EstimateLayout(options, layout, micro_batch, figures, placement, units);
    ++all.count;
    if (estimate.fits) all.fitting.push_back(estimate);
    if (estimate.peak_bytes < all.smallest.peak_bytes) all.smallest = estimate;
    for (size_t i = 0; i < all.families.size(); ++i) {
      if (kFamilies[i].holds(layout)) AddTo(all.families[i], estimate);
    }
  });
  std::sort(all.fitting.begin(), all.fitting.end(), Faster);
  return all;
}

RunOptions WithLayout(RunOptions options, const LayoutEstimate& estimate) {
  options.parallel = estimate.parallel;
  options.train.micro_batch = estimate.micro_batch;
  return options;
}

std::string Percent(double part, double whole) { return absl::StrFormat("%.0f%%", 100 * part / whole); }

std::string WhyBest(const LayoutSearchResult& result) {
  const StepEstimate& step = result.best.step;
  std::string why = absl::StrFormat("%d layouts divide, %d of them do not fit; of the rest this one computes for ",
                                    result.estimated, result.too_large);
  absl::StrAppend(&why, Percent(step.compute, step.total), " of its step");
  const std::pair<const char*, double> losses[] = {{"tensor-parallel waits", step.tp_exposed},
                                                   {"pipeline bubble", step.pp_bubble},
                                                   {"data-parallel waits", step.dp_exposed},
                                                   {"optimizer", step.optimizer},
                                                   {"waiting for shared cores", step.shared_cores}};
  for (const auto& [name, seconds] : losses) {
    if (seconds > 0.005 * step.total) absl::StrAppend(&why, ", ", name, " ", Percent(seconds, step.total));
  }
  if (result.finalists.size() > 1) {
    const RunPlan& next = result.finalists[1];
    absl::StrAppendFormat(&why, "; next: %s, %.3f times its step",
                          LayoutName(next.options.parallel, next.options.train.micro_batch),
                          next.step.total / step.total);
  }
  return why;
}

absl::Status NothingFits(const Estimates& all, int64_t world, const RankPlacement& placement) {
  if (all.count == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layout auto: no layout of ", world,
        " ranks divides the model and train.global_batch; choose a number of "
        "ranks with divisors of model.heads, or of at most model.depth, and a batch that the rest divides"));
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "layout auto: none of ", all.count, " layouts of ", world, " ranks fits ",
      Gib(kUsableMemory * static_cast<double>(placement.memory_bytes)), " a rank; the smallest is ",
      LayoutName(all.smallest.parallel, all.smallest.micro_batch), " with ",
      Gib(static_cast<double>(all.smallest.peak_bytes)), "; plan for more ranks, a smaller model or larger devices"));
}

}  // namespace

absl::StatusOr<LayoutSearchResult> SearchLayouts(const RunOptions& options, int64_t world,
                                                 const ClusterFigures& figures) {
  ASSIGN_OR_RETURN(const RankPlacement placement, PlaceRanks(figures, world, options.train.threads));
  Estimates all = EstimateAll(options, world, figures, placement);
  if (all.fitting.empty()) return NothingFits(all, world, placement);

  LayoutSearchResult result;
  for (size_t i = 0; i < all.fitting.size() && i < kMaxPlanned && result.finalists.size() < kFinalists; ++i) {
    ASSIGN_OR_RETURN(RunPlan plan, PlanRun(WithLayout(options, all.fitting[i]), figures));
    if (plan.fits) result.finalists.push_back(std::move(plan));
  }
  if (result.finalists.empty()) return NothingFits(all, world, placement);
  std::stable_sort(result.finalists.begin(), result.finalists.end(),
                   [](const RunPlan& a, const RunPlan& b) { return a.step.total < b.step.total; });
  const double tie = kTie * result.finalists.front().step.total;
  const auto best =
      std::min_element(result.finalists.begin(), result.finalists.end(), [tie](const RunPlan& a, const RunPlan& b) {
        const bool a_loses = a.step.total > tie, b_loses = b.step.total > tie;
        return std::tuple(a_loses, Complexity(a.options.parallel)) <
               std::tuple(b_loses, Complexity(b.options.parallel));
      });
  std::rotate(result.finalists.begin(), best, best + 1);
  result.best = result.finalists.front();
  result.estimated = all.count;
  result.too_large = all.count - static_cast<int64_t>(all.fitting.size());
  result.families = std::move(all.families);
  const ParallelOptions& chosen = result.best.options.parallel;
  UnitCostCache units(options, figures, placement);
  const LayoutEstimate reference =
      EstimateLayout(options, chosen, result.best.options.train.micro_batch, figures, placement, units);
  for (size_t i = 0; i < result.families.size(); ++i) {
    LayoutFamily& family = result.families[i];
    family.holds_best = kFamilies[i].holds(chosen);
    if (family.holds_best) family.best = reference;
    family.why_not = WhyNot(family, reference, placement.memory_bytes);
  }
  result.why_best = WhyBest(result);
  return result;
}

std::string LayoutName(const ParallelOptions& parallel, int64_t micro_batch) {
  std::string name = absl::StrCat("dp ", parallel.dp);
  if (parallel.tp > 1) absl::StrAppend(&name, " tp ", parallel.tp, parallel.sequence_parallel ? " sp" : "");
  if (parallel.pp > 1) absl::StrAppend(&name, " pp ", parallel.pp, " ", std::string(Name(parallel.schedule)));
  if (parallel.virtual_stages > 1) absl::StrAppend(&name, " x", parallel.virtual_stages);
  if (parallel.dp > 1) absl::StrAppend(&name, " zero ", parallel.zero_stage);
  absl::StrAppend(&name, " micro ", micro_batch);
  if (parallel.recompute == RecomputeMode::kSelective) absl::StrAppend(&name, " recompute SELECTIVE");
  if (parallel.recompute == RecomputeMode::kFull) absl::StrAppend(&name, " recompute FULL");
  return name;
}

}  // namespace shardit
