// shardit train: a run from a configuration.
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/train.h"

namespace shardit {
namespace {

struct Flags {
  ConfigFlags config;
  TrainRequest request;
  bool dry_run = false;
};

absl::Status CheckResume(const std::string& resume) {
  int64_t step = 0;
  if (resume == "auto" || resume == "never" || (absl::SimpleAtoi(resume, &step) && step >= 0) ||
      KindOfPath(resume) == PathKind::kFolder || KindOfPath(resume) == PathKind::kOther) {
    return absl::OkStatus();
  }
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                          "--resume: expected auto, never, a step or a checkpoint folder, got ", Quoted(resume))),
                      ExitCode::kUsage);
}

absl::Status ReadRequest(World& world, Flags& flags) {
  RETURN_IF_ERROR(CheckResume(flags.request.resume));
  ASSIGN_OR_RETURN(flags.request.config,
                   LoadRunConfig({flags.config.files, flags.config.sets}, ConfigUse::kTrain, world.size()));
  return absl::OkStatus();
}

absl::Status Run(World& world, Flags& flags) {
  // World: a rank whose node lacks a file would leave alone, and the others would wait for it.
  RETURN_IF_ERROR(AgreeStatus(world.comm(), ReadRequest(world, flags)));
  if (!flags.dry_run) return Train(world, flags.request);
  if (world.rank() != 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string plan, DescribeRun(flags.request.config));
  return Print(flags.request.config.text + "\n" + plan);
}

}  // namespace

void AddTrainCommand(CommandLine& line) {
  CLI::App* command = line.Add("train", "Train a model",
                               "mpirun -n 2 shardit train --config configs/fashion_mnist.textproto \\\n"
                               "      --set train.steps=100 --out results/first");
  Flags* flags = line.Keep<Flags>();
  TrainRequest& request = flags->request;
  AddConfigFlags(command, &flags->config, /*required=*/true);
  request.out = "results/run";
  command->add_option("--out", request.out, "Run folder (default results/run)")->type_name("DIR");
  command->add_option("--resume", request.resume, "auto, never, or a step or folder to go back to")->type_name("WHAT");
  command->add_option("--init-from", request.init_from, "Start from these weights")->type_name("FILE");
  command->add_option("--trace", request.trace, "Write a Chrome trace of the last steps")->type_name("FILE");
  command->add_option("--stop-after", request.stop_after, "Save and exit 75 after N steps")->type_name("N");
  command
      ->add_option("--max-stalled-restarts", request.max_stalled_restarts, "Exit 78 after N starts that save nothing")
      ->type_name("N");
  command->add_flag("--dry-run", flags->dry_run, "Check settings and print the plan; reads no data");
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
