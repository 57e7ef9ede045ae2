// shardit sweep: trains and scores the models of a study, here or on Slurm, from where it stands.
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "launch/machine/shell.h"
#include "launch/study/local_queue.h"
#include "launch/study/slurm_array.h"
#include "launch/study/sweep.h"
#include "launch/study/sweep_cost.h"
#include "launch/study/sweep_results.h"
#include "launch/study/sweep_state.h"
#include "launch/study/sweep_tasks.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

struct Flags {
  std::string config;
  std::vector<std::string> sets;
  std::string launcher = "local";
  std::optional<int64_t> task;
  bool summary = false;
  bool dry_run = false;
  bool json = false;
};

// Results are a by-product of a task: a full disk must not end what still works.
void RefreshResults(const SweepStudy& sweep) {
  const auto written = WriteSweepResults(sweep.folder);
  if (!written.ok()) LOG_WARN("{}", std::string(written.status().message()));
}

absl::Status PrintResults(const Flags& flags, const SweepStudy& sweep) {
  ASSIGN_OR_RETURN(const Json results, WriteSweepResults(sweep.folder));
  return Print(flags.json ? JsonText(results) : SweepTable(results));
}

std::vector<Task> TasksOf(const SweepStudy& sweep, const std::vector<std::string>& launch) {
  std::vector<Task> tasks;
  for (const SweepRun& run : sweep.runs) tasks.push_back(MakeTask(sweep, run, launch));
  return tasks;
}

absl::Status RunHere(const Flags& flags, const SweepStudy& sweep, StopRelay& relay) {
  ASSIGN_OR_RETURN(const std::vector<std::string> launch, LaunchWords(sweep.launch, sweep.launch.ranks));
  const std::vector<Task> tasks = TasksOf(sweep, launch);
  LocalQueueOptions options{.parallel = sweep.launch.parallel_runs, .max_restarts = sweep.launch.max_restarts};
  options.ended = [&](const Task& task, const TaskRecord& record) {
    LOG_INFO("{}: {}{}{}", task.name, Name(record.state), record.message.empty() ? "" : ", ", record.message);
    RefreshResults(sweep);
  };
  const std::vector<TaskRecord> records = RunLocalQueue(tasks, options, relay);
  RETURN_IF_ERROR(PrintResults(flags, sweep));
  return StudyStatus(tasks, records);
}

// An element of a job array: one task, in the foreground. The scheduler runs it again at 75.
absl::Status RunElement(const SweepStudy& sweep, int64_t index) {
  const int64_t count = static_cast<int64_t>(sweep.runs.size());
  if (index < 0 || index >= count) {
    return WithExitCode(absl::InvalidArgumentError(absl::StrCat("--task: expected 0 to ", count - 1, ", got ", index)),
                        ExitCode::kUsage);
  }
  StopRelay relay;
  RETURN_IF_ERROR(CheckScoreFiles(sweep));
  ASSIGN_OR_RETURN(const std::vector<std::string> launch, LaunchWords(sweep.launch, sweep.launch.ranks));
  const Task task = MakeTask(sweep, sweep.runs[static_cast<size_t>(index)], launch);
  const TaskRecord record = RunTask(task, {.max_restarts = sweep.launch.max_restarts, .scheduled = true}, relay);
  RefreshResults(sweep);
  return ElementStatus(task, record);
}

absl::StatusOr<std::vector<int64_t>> UnfinishedRuns(const SweepStudy& sweep) {
  std::vector<int64_t> indices;
  for (const SweepRun& run : sweep.runs) {
    const absl::StatusOr<bool> done = RunIsDone(sweep, run);
    if (!done.ok() || !*done) indices.push_back(run.index);  // one that holds another run fails, visibly
  }
  return indices;
}

absl::Status Submit(const Flags& flags, const SweepStudy& sweep) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> indices, UnfinishedRuns(sweep));
  if (indices.empty()) return PrintResults(flags, sweep);
  // Jobs start where they were submitted, but their logs are opened by Slurm.
  const std::string folder = std::filesystem::absolute(sweep.folder).lexically_normal().string();
  const std::vector<std::string> program = {OwnPath(), "sweep", "--config", JoinPath(folder, kSweepFile)};
  SlurmArray array{.job_name = sweep.name,
                   .folder = JoinPath(folder, "jobs"),
                   .indices = indices,
                   .command = program,
                   .summary = program,
                   .resources = sweep.slurm};
  array.command.push_back("--task");
  array.summary.push_back("--summary");
  ASSIGN_OR_RETURN(const SubmittedStudy submitted, SubmitArray(array, "sweep"));
  if (!flags.json) {
    return Print(absl::StrCat("submitted job ", submitted.array_job, ", array ",
                              ArraySpec(indices, sweep.slurm.max_running), "; summary job ", submitted.summary_job,
                              "; logs in ", array.folder));
  }
  return Print(JsonText({{"kind", "submitted"},
                         {"name", sweep.name},
                         {"array_job", submitted.array_job},
                         {"summary_job", submitted.summary_job},
                         {"tasks", indices}}));
}

absl::Status PrintCost(const Flags& flags, const SweepStudy& sweep) {
  ASSIGN_OR_RETURN(const SweepCost cost, CostOfSweep(sweep));
  if (flags.json && flags.dry_run) return Print(JsonText(CostJson(sweep, cost)));
  if (!flags.json) return Print(CostText(sweep, cost));
  std::fprintf(stderr, "%s\n", CostText(sweep, cost).c_str());  // the results are the one document
  return absl::OkStatus();
}

absl::Status Run(const Flags& flags) {
  ASSIGN_OR_RETURN(const SweepStudy sweep, LoadSweep(flags.config, flags.sets));
  if (flags.summary) return PrintResults(flags, sweep);
  if (flags.task.has_value()) return RunElement(sweep, *flags.task);
  RETURN_IF_ERROR(PrintCost(flags, sweep));
  if (flags.dry_run) return absl::OkStatus();
  RETURN_IF_ERROR(CheckScoreFiles(sweep));
  RETURN_IF_ERROR(WriteSweepFiles(sweep));
  if (flags.launcher == "slurm") return Submit(flags, sweep);
  StopRelay relay;
  return RunHere(flags, sweep, relay);
}

}  // namespace

void AddSweepCommand(CommandLine& line) {
  CLI::App* command = line.Add("sweep", "Train and score the models of a study",
                               "shardit sweep --config configs/studies/fashion_mnist.textproto \\\n"
                               "      --dry-run");
  Flags* flags = line.Keep<Flags>();
  command->add_option("--config", flags->config, "Study (configs/sweep.proto)")->type_name("FILE")->required();
  command->add_option("--set", flags->sets, "Override, as section.field=value")
      ->type_name("A.B=V")
      ->allow_extra_args(false);
  command->add_option("--launcher", flags->launcher, "local, or slurm: submit a job array")
      ->type_name("HOW")
      ->check(CLI::IsMember({"local", "slurm"}));
  command->add_flag("--dry-run", flags->dry_run, "Check, print what it costs, and end");
  command->add_flag("--summary", flags->summary, "Collect and print the results, and end");
  command->add_option("--task", flags->task, "Run one task, as a job array does")->type_name("INDEX");
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnOneRank(command, [flags] { return Run(*flags); });
}

}  // namespace shardit
