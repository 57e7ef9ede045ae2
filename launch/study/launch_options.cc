#include "launch/study/launch_options.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/machine/launch_line.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {

LaunchOptions ToLaunchOptions(const config::Launch& launch) {
  return {.ranks = launch.ranks(),
          .threads = launch.threads(),
          .command = launch.command(),
          .parallel_runs = launch.parallel_runs(),
          .max_restarts = launch.max_restarts()};
}

SlurmResources ToSlurmResources(const config::Slurm& slurm) {
  return {.nodes = slurm.nodes(),
          .tasks_per_node = slurm.tasks_per_node(),
          .cpus_per_task = slurm.cpus_per_task(),
          .gpus_per_node = slurm.gpus_per_node(),
          .time = slurm.time(),
          .partition = slurm.partition(),
          .account = slurm.account(),
          .qos = slurm.qos(),
          .max_running = slurm.max_running(),
          .signal_seconds = slurm.signal_seconds(),
          .setup = {slurm.setup().begin(), slurm.setup().end()}};
}

absl::StatusOr<std::vector<std::string>> LaunchWords(const LaunchOptions& options, int64_t ranks) {
  constexpr char kPlace[] = "{ranks}";
  std::string line = options.command;
  if (line.empty()) {
    if (ranks == 1) return std::vector<std::string>();
    ASSIGN_OR_RETURN(line, FindLaunchLine(static_cast<int>(ranks)));
  }
  const bool has_place = absl::StrContains(line, kPlace);
  line = has_place ? absl::StrReplaceAll(line, {{kPlace, absl::StrCat(ranks)}}) : absl::StrCat(line, " -n ", ranks);
  return std::vector<std::string>(absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty()));
}

absl::StatusOr<config::RunConfig> MergeRun(const google::protobuf::RepeatedPtrField<std::string>& base,
                                           const config::RunConfig& run) {
  config::RunConfig merged;
  for (const std::string& file : base) {
    const absl::StatusOr<std::string> text = ReadWholeFile(file, kMaxConfigBytes);
    if (!text.ok()) return WithExitCode(text.status(), ExitCode::kUsage);
    config::RunConfig parsed;
    absl::Status status = ParseConfigText(*text, PrintableName(file), &parsed);
    if (status.ok()) status = CheckRanges(parsed);
    if (!status.ok()) return WithExitCode(status, ExitCode::kUsage);
    merged.MergeFrom(parsed);
  }
  merged.MergeFrom(run);
  return merged;
}

bool IsPlainName(const std::string& name) {
  const auto plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  return !name.empty() && name[0] != '.' && name[0] != '-' && std::all_of(name.begin(), name.end(), plain);
}

}  // namespace shardit
