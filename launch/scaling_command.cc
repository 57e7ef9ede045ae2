// shardit scaling: one model on many worlds and layouts, measured beside what the planner says.
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "launch/scaling/scaling_results.h"
#include "launch/scaling/scaling_run.h"
#include "launch/scaling/scaling_study.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

struct Flags {
  std::string config;
  std::string launcher = "local";
  int64_t task = -1;
  bool dry_run = false, summary = false, json = false;
};

// The results so far, whatever became of the points, then what is wrong.
absl::Status Conclude(const ScalingStudy& study, const Flags& flags, const absl::Status& ran) {
  RETURN_IF_ERROR(WriteScalingResults(study.out));
  ASSIGN_OR_RETURN(const Json results, CollectScaling(study.out));
  RETURN_IF_ERROR(Print(flags.json ? JsonText(results) : ScalingTable(results)));
  return ran;
}

absl::Status Run(const Flags& flags) {
  ASSIGN_OR_RETURN(const ScalingStudy study, LoadScaling(flags.config));
  if (flags.task >= 0) return RunScalingTask(study, flags.task);
  if (flags.summary) return Conclude(study, flags, absl::OkStatus());
  if (flags.dry_run) {
    ASSIGN_OR_RETURN(const ScalingPrediction planned, PredictPoints(study, /*keep=*/false));
    return Print(flags.json ? JsonText(planned.plans) : planned.text);
  }
  if (flags.launcher == "slurm" && study.slurm.tasks_per_node == 0) {
    return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                            Quoted(flags.config), ": slurm.tasks_per_node: expected the ranks of a node, got none")),
                        ExitCode::kUsage);
  }
  RETURN_IF_ERROR(WriteStudy(study));
  ASSIGN_OR_RETURN(const ScalingPrediction planned, PredictPoints(study, /*keep=*/true));
  LOG_INFO("{}", planned.text);
  if (flags.launcher == "local") return Conclude(study, flags, RunScalingHere(study));
  ASSIGN_OR_RETURN(const std::string submitted, SubmitScaling(study));
  return Print(submitted);
}

}  // namespace

void AddScalingCommand(CommandLine& line) {
  CLI::App* command = line.Add("scaling", "Weak and strong scaling beside the plan",
                               "shardit scaling --config configs/studies/scaling_cpu.textproto");
  Flags* flags = line.Keep<Flags>();
  command->add_option("--config", flags->config, "Scaling study (configs/scaling.proto)")
      ->type_name("FILE")
      ->required();
  command->add_option("--launcher", flags->launcher, "local or slurm (default local)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"local", "slurm"}));
  command->add_flag("--dry-run", flags->dry_run, "Print the prediction and stop");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->add_option("--task", flags->task, "Run one point (for batch jobs)")->type_name("N");
  command->add_flag("--summary", flags->summary, "Only collect and print results");
  line.OnOneRank(command, [flags] { return Run(*flags); });
}

}  // namespace shardit
