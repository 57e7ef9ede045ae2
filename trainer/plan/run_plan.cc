#include "trainer/plan/run_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/base/status_macros.h"
#include "model/dit_variants.h"

namespace shardit {
namespace {

constexpr int kStagesPlannedEach = 8;  // pipelines up to this length have every stage planned
constexpr int kChartMicroBatches = 8;

std::vector<RankPlan> PlanStages(const RunOptions& options, const MeshShape& shape, const ClusterFigures& figures,
                                 const RankPlacement& placement) {
  const std::vector<int> alike = FirstAlike(options, shape);
  std::vector<RankPlan> ranks;
  for (int pp = 0; pp < shape.pp; ++pp) {
    const MeshCoords coords{.pp = pp};
    const int first = alike[static_cast<size_t>(pp)];
    if (shape.pp <= kStagesPlannedEach || first == pp) {
      ranks.push_back(PlanRank(options, shape, coords, figures, placement));
      continue;
    }
    RankPlan copy = ranks[static_cast<size_t>(first)];
    copy.coords = coords;
    copy.parts = MakeSharding(options.model, options.parallel, options.train.deterministic, shape, coords).parts;
    ranks.push_back(std::move(copy));
  }
  return ranks;
}

PipelineSpec SpecOf(const RunPlan& plan, int64_t micro_batches) {
  return {.kind = plan.options.parallel.schedule,
          .ranks = plan.shape.pp,
          .micro_batches = static_cast<int>(micro_batches),
          .parts = static_cast<int>(plan.ranks.front().parts.size())};
}

std::vector<StageCost> StageCosts(const RunPlan& plan) {
  std::vector<StageCost> costs;
  for (size_t part = 0; part < plan.ranks.front().parts.size(); ++part) {
    for (const RankPlan& rank : plan.ranks) costs.push_back(rank.costs[part]);
  }
  return costs;
}

double MessageSeconds(const RunPlan& plan, const ClusterFigures& figures) {
  if (plan.shape.pp == 1) return 0;
  const LinkFigures& link = LinkOf(figures, plan.placement, int64_t{plan.shape.dp} * plan.shape.tp, plan.shape.pp);
  int64_t bytes = 0;
  for (const RankPlan& rank : plan.ranks) bytes = std::max(bytes, rank.boundary_bytes);
  return link.latency_seconds + static_cast<double>(bytes) / link.bytes_per_second;
}

double Waited(const RankPlan& rank, PlanAxis axis) { return rank.waited[static_cast<size_t>(axis)]; }

// Seconds that the cores of a node need at least: everything its ranks compute, and copying what they send.
double CoreSeconds(const RunPlan& plan, const ClusterFigures& figures) {
  double seconds = 0;
  for (const RankPlan& rank : plan.ranks) {
    const double waits = std::accumulate(rank.waited.begin(), rank.waited.end(), 0.0);
    const double sent = static_cast<double>(rank.sent.dp + rank.sent.tp + rank.sent.pp);
    seconds += (rank.seconds - waits) * static_cast<double>(plan.placement.threads) +
               sent / figures.intra_node.bytes_per_second;
  }
  const double replicas = static_cast<double>(plan.shape.dp * plan.shape.tp);
  return seconds * replicas / static_cast<double>(plan.placement.nodes * figures.devices_per_node);
}

StepEstimate Estimate(const RunPlan& plan, const ClusterFigures& figures) {
  const SimulatedPipeline pipeline =
      SimulateSchedule(SpecOf(plan, plan.micro_batches), StageCosts(plan), MessageSeconds(plan, figures));
  // The slowest stage sets the pace; what comes after the passes is waited for by all, in the norm.
  const RankPlan& slowest =
      *std::max_element(plan.ranks.begin(), plan.ranks.end(),
                        [](const RankPlan& a, const RankPlan& b) { return a.passes_seconds < b.passes_seconds; });
  double after = 0;
  for (const RankPlan& rank : plan.ranks) after = std::max(after, rank.seconds - rank.passes_seconds);

  StepEstimate step;
  step.tp_exposed = std::min(slowest.passes_seconds, Waited(slowest, PlanAxis::kTp));
  step.optimizer = slowest.update_seconds;
  step.pp_bubble = std::max(0.0, pipeline.makespan - slowest.passes_seconds);
  step.dp_exposed = Waited(slowest, PlanAxis::kDp);
  const double alone = std::max(pipeline.makespan, slowest.passes_seconds) + after;
  step.compute = std::max(0.0, alone - step.tp_exposed - step.optimizer - step.pp_bubble - step.dp_exposed);
  step.total = alone;
  if (figures.devices_are_cores) step.total = std::max(alone, CoreSeconds(plan, figures));
  step.shared_cores = step.total - alone;

  const double images = static_cast<double>(plan.options.train.global_batch);
  step.images_per_second = images / step.total;
  step.model_flops_per_second = TrainFlops(plan.options.model) * step.images_per_second;
  const double devices = figures.devices_are_cores
                             ? std::min(static_cast<double>(plan.placement.nodes * figures.devices_per_node),
                                        static_cast<double>(plan.shape.ranks() * plan.placement.threads))
                             : plan.shape.ranks();
  step.mfu = step.model_flops_per_second / (devices * figures.peak_flops);
  return step;
}

}  // namespace

absl::StatusOr<RunPlan> PlanRun(const RunOptions& options, const ClusterFigures& figures) {
  RunPlan plan{.options = options};
  plan.shape = {.pp = static_cast<int>(options.parallel.pp),
                .dp = static_cast<int>(options.parallel.dp),
                .tp = static_cast<int>(options.parallel.tp)};
  ASSIGN_OR_RETURN(plan.placement, PlaceRanks(figures, plan.shape.ranks(), options.train.threads));
  plan.micro_batches = options.train.global_batch / (plan.shape.dp * options.train.micro_batch);
  plan.parameters = ParameterCount(options.model) - PositionTableCount(options.model);
  plan.ranks = PlanStages(options, plan.shape, figures, plan.placement);
  for (const RankPlan& rank : plan.ranks) {
    plan.formulas.push_back(FormulasOf(options, plan.shape, rank));
    const size_t index = plan.formulas.size() - 1;
    if (rank.memory.peak_bytes_in_use > plan.ranks[plan.fullest].memory.peak_bytes_in_use) plan.fullest = index;
  }
  plan.fits = static_cast<double>(plan.largest().memory.peak_bytes_in_use) <=
              kUsableMemory * static_cast<double>(plan.placement.memory_bytes);
  plan.step = Estimate(plan, figures);
  const int64_t shown = std::min<int64_t>(plan.micro_batches, std::max(kChartMicroBatches, plan.shape.pp));
  plan.chart = SimulateSchedule(SpecOf(plan, shown), StageCosts(plan), MessageSeconds(plan, figures));
  return plan;
}

}  // namespace shardit
