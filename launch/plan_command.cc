// shardit plan: what a run would need and how fast it would go, on any number of ranks.
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "launch/machine/cluster_file.h"
#include "trainer/plan/layout_search.h"
#include "trainer/plan/measure_machine.h"
#include "trainer/plan/plan_report.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

struct Flags {
  ConfigFlags config;
  int64_t world = 0;
  std::string cluster;
  std::string layout = "config";
  bool json = false;

  bool searches() const { return layout == "auto"; }
};

// A plan opens no data. A search replaces the layout, which need not fit the ranks.
absl::StatusOr<ResolvedConfig> LoadConfig(const Flags& flags, int64_t world) {
  ConfigSources sources{flags.config.files, {"data.path=\"planned\""}};
  sources.sets.insert(sources.sets.end(), flags.config.sets.begin(), flags.config.sets.end());
  if (!flags.searches()) return LoadRunConfig(sources, ConfigUse::kTrain, world);
  for (const char* set : {"parallel.dp=1", "parallel.tp=1", "parallel.pp=1", "parallel.virtual_stages=1",
                          "parallel.zero_stage=0", "parallel.schedule=ONE_F_ONE_B", "train.micro_batch=0"}) {
    sources.sets.push_back(set);
  }
  return LoadRunConfig(sources, ConfigUse::kTrain, 1);
}

absl::Status Report(const Flags& flags, const RunPlan& plan, const LayoutSearchResult* search,
                    const ClusterFigures& figures) {
  if (!flags.json) return Print((search == nullptr ? "" : SearchText(*search)) + PlanText(plan, figures));
  Json json = PlanJson(plan, figures);
  if (search != nullptr) json["search"] = SearchJson(*search);
  return Print(JsonText(json));
}

absl::Status Run(World& launched, const Flags& flags) {
  if (launched.rank() != 0) return absl::OkStatus();
  if (flags.layout != "config" && !flags.searches()) {
    return WithExitCode(
        absl::InvalidArgumentError(absl::StrCat("--layout: expected config or auto, got '", flags.layout, "'")),
        ExitCode::kUsage);
  }
  const int64_t world = flags.world > 0 ? flags.world : launched.size();
  ASSIGN_OR_RETURN(const ResolvedConfig config, LoadConfig(flags, world));
  ClusterFigures figures;
  if (flags.cluster.empty()) {
    figures = MeasureMachine();
  } else {
    ASSIGN_OR_RETURN(figures, LoadCluster(flags.cluster, config.options.train.precision));
  }
  if (flags.searches()) {
    ASSIGN_OR_RETURN(const LayoutSearchResult search, SearchLayouts(config.options, world, figures));
    return Report(flags, search.best, &search, figures);
  }
  ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(config.options, figures));
  return Report(flags, plan, nullptr, figures);
}

}  // namespace

void AddPlanCommand(CommandLine& line) {
  CLI::App* command = line.Add("plan", "Memory, bytes sent and step time on any world",
                               "shardit plan --config configs/dit_xl_2.textproto --world 64 \\\n"
                               "      --cluster configs/clusters/h100.textproto --layout auto");
  Flags* flags = line.Keep<Flags>();
  AddConfigFlags(command, &flags->config, /*required=*/true);
  command->add_option("--world", flags->world, "Ranks (default: of this launch)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--cluster", flags->cluster, "Machines (default: measure this)")->type_name("FILE");
  command->add_option("--layout", flags->layout, "config, or auto: search the best")->type_name("HOW");
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
