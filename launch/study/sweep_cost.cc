#include "launch/study/sweep_cost.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "launch/machine/cluster_file.h"
#include "launch/study/sweep_state.h"
#include "model/dit_variants.h"
#include "trainer/plan/measure_machine.h"
#include "trainer/plan/run_plan.h"

namespace shardit {
namespace {

// Steps a second and memory of the run, by the planner.
absl::Status AddPlan(const SweepStudy& sweep, const SweepRun& run, const ClusterFigures& figures, RunCost* cost,
                     int64_t* nodes) {
  ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(run.config.options, figures));
  const double step_hours = plan.step.total / 3600;
  cost->bytes_per_rank = plan.largest().memory.peak_bytes_in_use;
  cost->fits = plan.fits;
  cost->train_hours = step_hours * static_cast<double>(cost->steps);
  *nodes = plan.placement.nodes;
  if (!sweep.evaluation.has_value()) return absl::OkStatus();
  const SweepEvaluation& asked = *sweep.evaluation;
  const double image_hours = step_hours / static_cast<double>(run.config.options.train.global_batch) / 3;
  const double passes = static_cast<double>(asked.samples * asked.steps) * (asked.cfg_scale == 1 ? 1 : 2);
  cost->sampling_hours = image_hours * passes * static_cast<double>(run.evaluated.size());
  return absl::OkStatus();
}

void AddProgress(const SweepStudy& sweep, const SweepRun& run, RunCost* cost) {
  const absl::StatusOr<bool> trained = TrainingIsDone(sweep, run, false);
  if (!trained.ok()) {
    cost->there = std::string(trained.status().message());
    return;
  }
  int64_t scored = 0;
  for (const int64_t step : run.evaluated) scored += FindScores(sweep, run, step).has_value() ? 1 : 0;
  const double all = cost->train_hours + cost->sampling_hours;
  const int64_t newest = NewestStep(sweep, run);
  const double part = *trained ? 1 : static_cast<double>(newest) / static_cast<double>(cost->steps);
  const double scored_part =
      run.evaluated.empty() ? 1 : static_cast<double>(scored) / static_cast<double>(run.evaluated.size());
  if (all > 0) cost->left = 1 - (part * cost->train_hours + scored_part * cost->sampling_hours) / all;
  const bool done = *trained && scored == static_cast<int64_t>(run.evaluated.size());
  cost->there = done ? "done" : *trained ? "trained" : newest > 0 ? absl::StrCat("step ", newest) : "-";
  if (done) cost->left = 0;
}

absl::StatusOr<RunCost> CostOfRun(const SweepStudy& sweep, const SweepRun& run, const ClusterFigures& figures,
                                  int64_t* nodes) {
  const RunOptions& options = run.config.options;
  RunCost cost{.name = run.name,
               .parameters = ParameterCount(options.model),
               .gmacs_forward = GmacsForward(options.model),
               .steps = options.train.steps,
               .images = options.train.steps * options.train.global_batch};
  cost.train_eflop = 1e-18 * TrainFlops(options.model) * static_cast<double>(cost.images);
  RETURN_IF_ERROR(AddPlan(sweep, run, figures, &cost, nodes));
  AddProgress(sweep, run, &cost);
  return cost;
}

}  // namespace

double SweepCost::Hours() const {
  double hours = 0;
  for (const RunCost& run : runs) hours += run.train_hours + run.sampling_hours;
  return hours;
}

double SweepCost::HoursLeft() const {
  double hours = 0;
  for (const RunCost& run : runs) hours += run.left * (run.train_hours + run.sampling_hours);
  return hours;
}

absl::StatusOr<SweepCost> CostOfSweep(const SweepStudy& sweep) {
  ClusterFigures figures;
  if (sweep.cluster.empty()) {
    figures = MeasureMachine();
  } else {
    ASSIGN_OR_RETURN(figures, LoadCluster(sweep.cluster, sweep.runs.front().config.options.train.precision));
  }
  SweepCost cost{.machine = figures.name};
  for (const SweepRun& run : sweep.runs) {
    ASSIGN_OR_RETURN(RunCost one, CostOfRun(sweep, run, figures, &cost.nodes));
    cost.runs.push_back(std::move(one));
  }
  return cost;
}

std::string CostText(const SweepStudy& sweep, const SweepCost& cost) {
  std::string text = absl::StrFormat(
      "study %s, %d runs on %d %s each, in %s\n%-28s %11s %8s %9s %10s %10s %8s %8s %8s  %s\n", sweep.name,
      cost.runs.size(), sweep.launch.ranks, sweep.launch.ranks == 1 ? "rank" : "ranks", sweep.folder, "run",
      "parameters", "GMACs", "steps", "images", "EFLOP", "MiB/rank", "train h", "sample h", "there");
  for (const RunCost& run : cost.runs) {
    absl::StrAppendFormat(&text, "%-28s %11d %8.4g %9d %10d %10.3g %8.0f %8.3g %8.3g  %s%s\n", run.name, run.parameters,
                          run.gmacs_forward, run.steps, run.images, run.train_eflop,
                          static_cast<double>(run.bytes_per_rank) / (1 << 20), run.train_hours, run.sampling_hours,
                          run.there, run.fits ? "" : "; does not fit the memory");
  }
  const double nodes = static_cast<double>(cost.nodes);
  absl::StrAppendFormat(&text, "%.3g node hours on %s, %.3g of them to do", nodes * cost.Hours(), cost.machine,
                        nodes * cost.HoursLeft());
  return text;
}

Json CostJson(const SweepStudy& sweep, const SweepCost& cost) {
  Json json{{"kind", "sweep_plan"},        {"name", sweep.name},      {"folder", sweep.folder},
            {"ranks", sweep.launch.ranks}, {"machine", cost.machine}, {"nodes", cost.nodes}};
  json["node_hours"] = static_cast<double>(cost.nodes) * cost.Hours();
  json["node_hours_left"] = static_cast<double>(cost.nodes) * cost.HoursLeft();
  json["runs"] = Json::array();
  for (const RunCost& run : cost.runs) {
    json["runs"].push_back({{"name", run.name},
                            {"parameters", run.parameters},
                            {"gmacs_forward", run.gmacs_forward},
                            {"steps", run.steps},
                            {"images", run.images},
                            {"train_eflop", run.train_eflop},
                            {"bytes_per_rank", run.bytes_per_rank},
                            {"fits", run.fits},
                            {"train_hours", run.train_hours},
                            {"sampling_hours", run.sampling_hours},
                            {"there", run.there},
                            {"left", run.left}});
  }
  return json;
}

}  // namespace shardit
