// shardit report: a study's folder as one page.
#include <spdlog/spdlog.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/build_info.h"
#include "launch/command_line.h"
#include "launch/machine/shell.h"
#include "launch/report/report.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

struct Flags {
  std::string folder, out, figures;
  bool json = false;
};

std::string TypedCommand(const Flags& flags) {
  std::string command = absl::StrCat("shardit report ", ShellWord(flags.folder));
  if (!flags.out.empty()) absl::StrAppend(&command, " --out ", ShellWord(flags.out));
  if (!flags.figures.empty()) absl::StrAppend(&command, " --figures ", ShellWord(flags.figures));
  return command;
}

std::string Summary(const ReportContent& content, const ReportOptions& options) {
  std::string text;
  for (const SweepSection& section : content.sweeps) {
    const std::string best = BestText(section.analysis);
    absl::StrAppend(&text, section.sweep->name, ": ", StatesText(*section.sweep), best.empty() ? "" : "; ", best, "\n");
  }
  for (const ScalingSection& section : content.scalings) {
    absl::StrAppend(&text, section.scaling->name, ": ", section.scaling->points.size(), " points of scaling\n");
  }
  return absl::StrCat(text, "report: ", options.out);
}

absl::Status Run(const Flags& flags) {
  if (!flags.out.empty() && !absl::EndsWith(flags.out, ".html")) {
    return WithExitCode(absl::InvalidArgumentError(
                            absl::StrCat("--out: expected a name that ends with .html, got ", Quoted(flags.out))),
                        ExitCode::kUsage);
  }
  ReportOptions options{.folder = flags.folder,
                        .out = flags.out,
                        .figures = flags.figures,
                        .version = kVersionText,
                        .command = TypedCommand(flags)};
  if (options.out.empty()) options.out = JoinPath(JoinPath(flags.folder, "report"), "report.html");
  if (options.figures.empty()) options.figures = JoinPath(ParentFolder(options.out), "figures");
  ASSIGN_OR_RETURN(const ReportContent content, MakeReport(options));
  RETURN_IF_ERROR(WriteReport(content, options));
  for (const std::string& problem : content.study.problems) spdlog::warn("report: {}", problem);
  return Print(flags.json ? JsonText(ReportJson(content)) : Summary(content, options));
}

}  // namespace

void AddReportCommand(CommandLine& line) {
  CLI::App* command = line.Add("report", "A study as one HTML page", "shardit report results/study");
  Flags* flags = line.Keep<Flags>();
  command->add_option("folder", flags->folder, "Folder of a sweep or a scaling study")->type_name("DIR")->required();
  command->add_option("--out", flags->out, "The page (default: DIR/report/report.html)")->type_name("FILE");
  command->add_option("--figures", flags->figures, "SVG files (default: figures/ beside it)")->type_name("DIR");
  command->add_flag("--json", flags->json, "Print what was computed, one object");
  line.OnOneRank(command, [flags] { return Run(*flags); });
}

}  // namespace shardit
