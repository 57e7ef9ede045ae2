#include "launch/scaling/scaling_run.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "launch/json/json.h"
#include "launch/machine/cluster_file.h"
#include "launch/machine/shell.h"
#include "launch/scaling/scaling_results.h"
#include "launch/study/local_queue.h"
#include "launch/study/run_files.h"
#include "trainer/plan/measure_machine.h"
#include "trainer/plan/plan_report.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMaxConfigFile = 8 << 20;

std::string ConfigPath(const ScalingStudy& study, const SeriesPoint& point) {
  return JoinPath(PointFolder(study, point), "point.textproto");
}

// Whether the folder holds this point's steps, all of them. A run of other settings is an error: its figures would be
// taken for this point's.
absl::StatusOr<bool> IsMeasured(const std::string& folder, const SeriesPoint& point) {
  const std::vector<Json> rows = ReadMetrics(folder);
  if (rows.empty()) return false;
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(JoinPath(folder, "config.textproto"), kMaxConfigFile));
  if (text != point.config.text) {
    return WithExitCode(
        absl::FailedPreconditionError(absl::StrCat(Quoted(folder),
                                                   ": holds a run of other settings than this study's; move it away or "
                                                   "give the study another out")),
        ExitCode::kUsage);
  }
  return NumberField(rows.back(), "step").value_or(0) >= static_cast<double>(point.config.options.train.steps);
}

Task MakeTask(const ScalingStudy& study, const SeriesPoint& point, int64_t index, std::vector<std::string> launch) {
  const std::string folder = PointFolder(study, point), checkpoints = JoinPath(folder, "checkpoints");
  std::vector<std::string> train = std::move(launch);
  train.insert(train.end(), {OwnPath(), "train", "--config", ConfigPath(study, point), "--out", folder});
  return {.name = point.name,
          .index = index,
          .folder = folder,
          .stages = {{.name = "train", .argv = std::move(train), .done = [=] { return IsMeasured(folder, point); }},
                     {.name = "remove checkpoints", .argv = {"rm", "-rf", "--", checkpoints}, .done = [=] {
                        return KindOfPath(checkpoints) == PathKind::kMissing;
                      }}}};
}

// A message for people; the results are what standard output is for.
std::string Describe(const SeriesPoint& point, const RunPlan& plan) {
  const double mib = static_cast<double>(plan.largest().memory.peak_bytes_in_use) / (1 << 20);
  return absl::StrFormat("%-24s %-6s %5d %6d %10.2f %10.1f %12.1f%s\n", point.name, point.weak ? "weak" : "strong",
                         point.world, point.config.options.train.global_batch, 1e3 * plan.step.total,
                         plan.step.images_per_second, mib, plan.fits ? "" : "  does not fit");
}

// The program's words for one of this study's jobs.
std::vector<std::string> OwnCommand(const ScalingStudy& study, const std::vector<std::string>& more) {
  std::vector<std::string> words = {OwnPath(), "scaling", "--config", JoinPath(study.out, kScalingFile)};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

absl::StatusOr<std::vector<int64_t>> UnfinishedTasks(const ScalingStudy& study) {
  // Launch lines are found inside the jobs, not here.
  std::vector<int64_t> unfinished;
  for (size_t i = 0; i < study.points.size(); ++i) {
    ASSIGN_OR_RETURN(const bool done, TaskIsDone(MakeTask(study, study.points[i], static_cast<int64_t>(i), {})));
    if (!done) unfinished.push_back(static_cast<int64_t>(i));
  }
  return unfinished;
}

}  // namespace

absl::StatusOr<ScalingPrediction> PredictPoints(const ScalingStudy& study, bool keep) {
  ClusterFigures figures;
  if (study.cluster.empty()) {
    figures = MeasureMachine();
  } else {
    ASSIGN_OR_RETURN(figures, LoadCluster(study.cluster, study.points.front().config.options.train.precision));
  }
  double seconds = 0, rank_seconds = 0;
  ScalingPrediction prediction{.plans = Json::array()};
  std::string& text = prediction.text;
  text = absl::StrFormat("planned on %s\n%-24s %-6s %5s %6s %10s %10s %12s\n", figures.name, "point", "mode", "ranks",
                         "batch", "step ms", "images/s", "MiB a rank");
  for (const SeriesPoint& point : study.points) {
    absl::StatusOr<RunPlan> plan = PlanRun(point.config.options, figures);
    if (!plan.ok()) return WithExitCode(plan.status(), ExitCode::kUsage);
    text += Describe(point, *plan);
    const double taken = plan->step.total * static_cast<double>(point.config.options.train.steps);
    seconds += taken;
    rank_seconds += taken * static_cast<double>(point.world);
    Json json{{"name", point.name}};
    json.update(PlanJson(*plan, figures));
    prediction.plans.push_back(json);
    if (!keep) continue;
    RETURN_IF_ERROR(
        AtomicWriteFile(PosixFileSystem(), JoinPath(PointFolder(study, point), kPlanFile), JsonText(json) + "\n"));
  }
  text += absl::StrFormat("%d points, about %.1f minutes of steps, %.3f rank hours\n", study.points.size(),
                          seconds / 60, rank_seconds / 3600);
  return prediction;
}

absl::Status WriteStudy(const ScalingStudy& study) {
  FileSystem& fs = PosixFileSystem();
  RETURN_IF_ERROR(MakeFolders(fs, study.out));
  RETURN_IF_ERROR(AtomicWriteFile(fs, JoinPath(study.out, kScalingFile), study.text));
  for (const SeriesPoint& point : study.points) {
    RETURN_IF_ERROR(MakeFolders(fs, PointFolder(study, point)));
    RETURN_IF_ERROR(AtomicWriteFile(fs, ConfigPath(study, point), point.config.text));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Task>> ScalingTasks(const ScalingStudy& study) {
  std::map<int64_t, std::vector<std::string>>
      words;  // by world: a line that starts two ranks may have no slots for more
  std::vector<Task> tasks;
  for (const SeriesPoint& point : study.points) {
    std::vector<std::string>& known = words[point.world];
    if (known.empty() && point.world > 1) {
      ASSIGN_OR_RETURN(known, LaunchWords(study.launch, point.world));
    }
    tasks.push_back(MakeTask(study, point, static_cast<int64_t>(tasks.size()), known));
  }
  return tasks;
}

absl::Status RunScalingHere(const ScalingStudy& study) {
  StopRelay relay;
  ASSIGN_OR_RETURN(const std::vector<Task> tasks, ScalingTasks(study));
  const LocalQueueOptions options{.parallel = 1,
                                  .max_restarts = study.launch.max_restarts,
                                  .ended = [&](const Task& task, const TaskRecord& record) {
                                    LOG_INFO("{}: {} {}", task.name, Name(record.state), record.message);
                                    const absl::Status written = WriteScalingResults(study.out);
                                    if (!written.ok()) LOG_WARN("{}", std::string(written.message()));
                                  }};
  const std::vector<TaskRecord> records = RunLocalQueue(tasks, options, relay);
  return StudyStatus(tasks, records);
}

absl::Status RunScalingTask(const ScalingStudy& study, int64_t index) {
  if (index < 0 || index >= static_cast<int64_t>(study.points.size())) {
    return WithExitCode(
        absl::InvalidArgumentError(absl::StrCat("--task: expected 0 to ", study.points.size() - 1, ", got ", index)),
        ExitCode::kUsage);
  }
  StopRelay relay;
  const SeriesPoint& point = study.points[static_cast<size_t>(index)];
  ASSIGN_OR_RETURN(const std::vector<std::string> words, LaunchWords(study.launch, point.world));
  const Task task = MakeTask(study, point, index, words);
  const TaskRecord record = RunTask(task, {.max_restarts = study.launch.max_restarts, .scheduled = true}, relay);
  return ElementStatus(task, record);
}

absl::StatusOr<std::string> SubmitScaling(const ScalingStudy& study) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> unfinished, UnfinishedTasks(study));
  std::map<int64_t, std::vector<int64_t>> by_nodes;
  for (const int64_t index : unfinished)
    by_nodes[NodesOf(study, study.points[static_cast<size_t>(index)])].push_back(index);
  std::vector<std::string> jobs;
  std::string lines;
  SlurmArray array{.job_name = study.name,
                   .folder = JoinPath(study.out, "jobs"),
                   .command = OwnCommand(study, {"--task"}),
                   .resources = study.slurm};
  for (const auto& [nodes, indices] : by_nodes) {
    array.indices = indices;
    array.resources.nodes = nodes;
    ASSIGN_OR_RETURN(const SubmittedStudy submitted, SubmitArray(array, absl::StrCat("scaling_", nodes, "_nodes")));
    jobs.push_back(submitted.array_job);
    absl::StrAppend(&lines, "array ", submitted.array_job, ": ", indices.size(), " points on ", nodes, " node(s)\n");
  }
  if (jobs.empty()) return "every point is measured; nothing was submitted\n";
  array.summary = OwnCommand(study, {"--summary"});
  ASSIGN_OR_RETURN(const std::string summary, SubmitSummary(array, absl::StrJoin(jobs, ":"), "scaling"));
  return absl::StrCat(lines, "summary ", summary, ": after all of them, writes ", JoinPath(study.out, "scaling.json"),
                      "\n");
}

}  // namespace shardit
