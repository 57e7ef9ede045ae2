#include "launch/report/report.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/machine/shell.h"
#include "launch/report/gnuplot.h"
#include "launch/report/loss_figure.h"
#include "launch/report/read_study.h"
#include "launch/report/scaling_figure.h"
#include "launch/report/score_figures.h"
#include "launch/report/tables.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

// A file's name, and unique in the page: with several studies the number of theirs comes first.
std::string FigureName(const std::string& name, size_t index, size_t count) {
  return count > 1 ? absl::StrCat("study", index + 1, "_", name) : name;
}

// Draws figures and keeps in mind what kept it from doing so, once.
class Drawer {
 public:
  explicit Drawer(std::vector<std::string>* problems) : problems_(problems) {}

  void Draw(const std::optional<FigureScript>& script, size_t index, size_t count, DrawnFigures* figures) {
    if (!script.has_value()) return;
    FigureScript renamed = *script;
    renamed.name = FigureName(script->name, index, count);
    DrawnFigure drawn{.name = renamed.name};
    absl::StatusOr<std::string> svg = missing_.ok() ? DrawFigure(renamed) : missing_;
    if (svg.ok()) {
      drawn.svg = *std::move(svg);
    } else {
      drawn.problem = CleanText(svg.status().message());
      if (missing_.ok()) problems_->push_back(ProblemText(svg.status()));
      if (absl::IsNotFound(svg.status())) missing_ = svg.status();
    }
    (*figures)[script->name] = std::move(drawn);
  }

 private:
  static std::string ProblemText(const absl::Status& status) {
    if (!absl::IsNotFound(status)) return CleanText(status.message());
    return "gnuplot is not in PATH: figures are left out, all tables are there; install gnuplot-nox and make the "
           "report again";
  }

  std::vector<std::string>* const problems_;
  absl::Status missing_;  // not OK once gnuplot was not found
};

std::vector<std::string> Commands(const Study& study, const ReportOptions& options) {
  std::vector<std::string> commands;
  for (const Sweep& sweep : study.sweeps) {
    const std::string description = JoinPath(sweep.folder, "sweep.textproto");
    if (KindOfPath(description) != PathKind::kFile) continue;
    commands.push_back(CleanText(absl::StrCat("shardit sweep --config ", ShellWord(description))));
  }
  commands.push_back(CleanText(options.command));
  return commands;
}

// "a/b.html" -> "a/b.csv".
std::string WithEnding(const std::string& page, const char* ending) {
  return absl::StrCat(absl::StripSuffix(page, ".html"), ending);
}

absl::Status WriteFile(const std::string& path, const std::string& content) {
  RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), ParentFolder(path)));
  return AtomicWriteFile(PosixFileSystem(), path, content);
}

absl::Status WriteFigures(const DrawnFigures& figures, const std::string& folder) {
  for (const auto& [name, figure] : figures) {
    if (figure.svg.empty()) continue;
    RETURN_IF_ERROR(WriteFile(JoinPath(folder, figure.name + ".svg"), figure.svg));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ReportContent> MakeReport(const ReportOptions& options) {
  ReportContent content;
  ASSIGN_OR_RETURN(content.study, ReadStudy(options.folder));
  content.version = options.version;
  content.commands = Commands(content.study, options);
  Drawer drawer(&content.study.problems);
  const size_t sweeps = content.study.sweeps.size(), scalings = content.study.scalings.size();
  for (size_t i = 0; i < sweeps; ++i) {
    const Sweep& sweep = content.study.sweeps[i];
    SweepSection section{.sweep = &sweep, .analysis = Analyse(sweep)};
    for (const auto& script :
         {ScoreByGflopsFigure(sweep, section.analysis), ScoreByComputeFigure(sweep, section.analysis),
          std::optional(PaperFigure(section.analysis)), DesignsFigure(sweep, section.analysis), LossFigure(sweep)}) {
      drawer.Draw(script, i, sweeps, &section.figures);
    }
    content.sweeps.push_back(std::move(section));
  }
  for (size_t i = 0; i < scalings; ++i) {
    const Scaling& scaling = content.study.scalings[i];
    ScalingSection section{.scaling = &scaling};
    for (const char* mode : {"weak", "strong"})
      drawer.Draw(ScalingFigure(scaling, mode), i, scalings, &section.figures);
    content.scalings.push_back(std::move(section));
  }
  return content;
}

absl::Status WriteReport(const ReportContent& content, const ReportOptions& options) {
  for (const SweepSection& section : content.sweeps) RETURN_IF_ERROR(WriteFigures(section.figures, options.figures));
  for (const ScalingSection& section : content.scalings)
    RETURN_IF_ERROR(WriteFigures(section.figures, options.figures));
  RETURN_IF_ERROR(WriteFile(WithEnding(options.out, ".csv"), RunsCsv(content.study)));
  RETURN_IF_ERROR(WriteFile(WithEnding(options.out, ".json"), JsonText(ReportJson(content)) + "\n"));
  return WriteFile(options.out, Page(content));
}

}  // namespace shardit
