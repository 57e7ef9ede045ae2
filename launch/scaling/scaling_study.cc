#include "launch/scaling/scaling_study.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "configs/run_config.pb.h"
#include "configs/scaling.pb.h"
#include "core/base/file.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

template <class... Parts>
absl::Status Invalid(const Parts&... parts) {
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(parts...)), ExitCode::kUsage);
}

// A timed run: every step is a row, and nothing else takes time.
void SetForTiming(const ScalingStudy& study, int64_t world, int64_t batch_growth, config::RunConfig* run) {
  config::Train& train = *run->mutable_train();
  train.set_steps(study.warmup_steps + study.steps);
  train.set_global_batch(train.global_batch() * batch_growth);
  if (study.launch.threads > 0) train.set_threads(study.launch.threads);
  run->mutable_data()->clear_validation_path();
  config::Checkpoint& checkpoint = *run->mutable_checkpoint();
  checkpoint.set_every_steps(0);
  checkpoint.set_keep_last(1);
  config::Log& log = *run->mutable_log();
  log.set_every_steps(1);
  log.set_sample_every(0);
  log.set_tensorboard(false);
}

absl::StatusOr<SeriesPoint> MakePoint(const ScalingStudy& study, const config::Scaling& scaling,
                                      const config::Scaling::Series& series, int64_t world) {
  const int64_t smallest = *std::min_element(series.world().begin(), series.world().end());
  SeriesPoint point{.name = absl::StrCat(series.name(), "-w", world),
                    .series = series.name(),
                    .weak = series.mode() == config::Scaling::Series::WEAK,
                    .world = world,
                    .smallest_world = smallest};
  if (point.weak && world % smallest != 0) {
    return Invalid("series ", series.name(), ": world ", world, " is no multiple of its smallest world, ", smallest,
                   ": the batch could not grow with it");
  }
  config::RunConfig run = scaling.run();
  run.mutable_parallel()->MergeFrom(series.parallel());
  run.mutable_parallel()->clear_dp();
  SetForTiming(study, world, point.weak ? world / smallest : 1, &run);
  absl::StatusOr<ResolvedConfig> config = ParseRunConfig(PrintConfigText(run), point.name, ConfigUse::kTrain, world);
  if (!config.ok()) return config.status();
  point.config = *std::move(config);
  return point;
}

absl::Status CheckSeries(const std::string& path, const config::Scaling& scaling) {
  std::set<std::string> names;
  for (const config::Scaling::Series& series : scaling.series()) {
    if (series.name().empty() || !IsPlainName(series.name())) {
      return Invalid(path, ": series.name: expected letters, digits and \"._-\", got ", Quoted(series.name()));
    }
    if (!names.insert(series.name()).second) return Invalid(path, ": series.name: ", series.name(), " stands twice");
    if (series.world().empty())
      return Invalid(path, ": series ", series.name(), ": expected a world, such as world: 2");
    if (series.parallel().dp() != 0) {
      return Invalid(path, ": series ", series.name(), ": parallel.dp: expected none, it follows from the world, got ",
                     series.parallel().dp());
    }
    std::set<int64_t> worlds(series.world().begin(), series.world().end());
    if (static_cast<int>(worlds.size()) != series.world_size()) {
      return Invalid(path, ": series ", series.name(), ": a world stands twice");
    }
  }
  return names.empty() ? Invalid(path, ": expected a series, such as series { name: \"dp\" world: 1 world: 2 }")
                       : absl::OkStatus();
}

// The study with its base files merged into `run`.
absl::StatusOr<config::Scaling> ReadScaling(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxConfigBytes));
  config::Scaling scaling;
  absl::Status parsed = ParseConfigText(text, path, &scaling);
  if (parsed.ok()) parsed = CheckRanges(scaling);
  if (!parsed.ok()) return Invalid(std::string(parsed.message()));
  ASSIGN_OR_RETURN(const config::RunConfig run, MergeRun(scaling.base(), scaling.run()));
  *scaling.mutable_run() = run;
  scaling.clear_base();
  // The defaults that this file reads itself; a run's others stay unset.
  config::Train& train = *scaling.mutable_run()->mutable_train();
  train.set_global_batch(train.global_batch());
  return scaling;
}

}  // namespace

absl::StatusOr<ScalingStudy> LoadScaling(const std::string& path) {
  ASSIGN_OR_RETURN(const config::Scaling scaling, ReadScaling(path));
  if (scaling.out().empty()) return Invalid(path, ": out: expected the study's folder");
  if (!scaling.name().empty() && !IsPlainName(scaling.name())) {
    return Invalid(path, ": name: expected letters, digits and \"._-\", got ", Quoted(scaling.name()));
  }
  RETURN_IF_ERROR(CheckSeries(path, scaling));
  ScalingStudy study{.name = scaling.name().empty() ? "scaling" : scaling.name(),
                     .out = scaling.out(),
                     .cluster = scaling.cluster(),
                     .warmup_steps = scaling.warmup_steps(),
                     .steps = scaling.steps(),
                     .launch = ToLaunchOptions(scaling.launch()),
                     .slurm = ToSlurmResources(scaling.slurm()),
                     .text = PrintConfigText(scaling)};
  study.slurm.nodes = 0;
  for (const config::Scaling::Series& series : scaling.series()) {
    for (const int64_t world : series.world()) {
      ASSIGN_OR_RETURN(SeriesPoint point, MakePoint(study, scaling, series, world));
      study.points.push_back(std::move(point));
    }
  }
  return study;
}

int64_t NodesOf(const ScalingStudy& study, const SeriesPoint& point) {
  return study.slurm.tasks_per_node == 0 ? 0 : CeilDiv(point.world, study.slurm.tasks_per_node);
}

std::string PointFolder(const ScalingStudy& study, const SeriesPoint& point) {
  return JoinPath(JoinPath(study.out, "points"), point.name);
}

}  // namespace shardit
