#include "launch/report/page.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/report/html.h"
#include "launch/report/paper_results.h"
#include "launch/report/score_figures.h"
#include "launch/report/tables.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr char kGflops[] =
    "Gflops as in the paper, i.e. multiply-accumulates (10⁹) of one forward pass; floating-point "
    "operations are twice that.";

std::string IntervalText(const std::optional<Interval>& interval, int digits) {
  if (!interval.has_value()) return "";
  return absl::StrCat(" [", SignificantDigits(interval->low, digits), ", ", SignificantDigits(interval->high, digits),
                      "]");
}

std::string CorrelationText(const std::optional<Correlation>& correlation) {
  if (!correlation.has_value()) return "not defined";
  return absl::StrCat(SignificantDigits(correlation->r, 3), IntervalText(correlation->interval, 3));
}

// A drawn figure with its caption; a line where there is no data or no gnuplot.
Markup FigureMarkup(const DrawnFigures& figures, const std::string& name, const std::string& caption,
                    const std::string& nothing) {
  const auto found = figures.find(name);
  if (found == figures.end()) return Paragraph(nothing, "note");
  if (found->second.svg.empty()) return Paragraph(absl::StrCat("Not drawn: ", found->second.problem), "problem");
  Markup content{found->second.svg};
  if (!caption.empty()) content += Element("figcaption", Text(caption));
  return {absl::StrCat(Element("figure", content).text, "\n")};
}

std::string RelationText(const ScoreRelation& relation, const std::string& score) {
  const std::string name = MetricName(score);
  std::string text = relation.law.has_value()
                         ? absl::StrCat("Fitted by least squares on logarithms: ", LawText(*relation.law, score), ". ")
                         : absl::StrCat("No law is fitted: n = ", relation.n, ". ");
  return absl::StrCat(text, "Pearson's correlation of log Gflops and log ", name, ": ",
                      CorrelationText(relation.log_log), "; of log Gflops and ", name, ": ",
                      CorrelationText(relation.log_linear),
                      "; Spearman's of the ranks: ", CorrelationText(relation.spearman), "; n = ", relation.n,
                      ". Brackets: 95% by Fisher's z, which takes the points for independent draws.");
}

Markup SettingsSection(const SweepSection& section) {
  const Sweep& sweep = *section.sweep;
  Markup content = Paragraph(StatesText(sweep) + ".");
  if (const std::string best = BestText(section.analysis); !best.empty())
    content += Paragraph(absl::StrCat("The ", best, "."));
  if (section.analysis.by_gflops.log_linear.has_value()) {
    content += Paragraph(absl::StrCat("Correlation of log Gflops and ", MetricName(section.analysis.score_name), ": ",
                                      CorrelationText(section.analysis.by_gflops.log_linear),
                                      ", n = ", section.analysis.by_gflops.n, "."));
  }
  content += Paragraph("Everything that moves a score:", "note");
  content += TableMarkup(SettingsTable(sweep.settings));
  if (sweep.settings.empty()) content += Paragraph("The study's document states no settings.", "problem");
  return content;
}

Markup ScoreSections(const SweepSection& section) {
  const SweepAnalysis& analysis = section.analysis;
  const std::string name = analysis.score_name.empty() ? "score" : MetricName(analysis.score_name);
  const std::string nothing = "No run has a score at its last step yet: there is nothing to draw.";
  Markup content = Heading(2, absl::StrCat("Model size and ", name));
  content += FigureMarkup(section.figures, "score_by_gflops",
                          absl::StrCat(kGflops,
                                       " Bars: the evaluation's 95% interval, which covers sampling, not training. "
                                       "Filled: adaLN-Zero, the points of the fit; hollow: other designs."),
                          nothing);
  if (!analysis.scored.empty()) content += Paragraph(RelationText(analysis.by_gflops, analysis.score_name));
  if (analysis.evaluations_left_out > 0) {
    content +=
        Paragraph(absl::StrCat("Evaluations left out of figures and fits: ", analysis.evaluations_left_out,
                               ". Another extractor, N, reference or sampler than the others' makes their scores "
                               "other quantities; the table marks them †."),
                  "problem");
  }
  content += Heading(2, absl::StrCat("Training compute and ", name));
  content +=
      FigureMarkup(section.figures, "score_by_compute",
                   "Gflops × images × 3 (a backward pass costs two forwards), the paper's measure; the points of "
                   "a run are linked.",
                   "No evaluation says after how many images it was made: there is nothing to draw.");
  return content;
}

Markup PaperSection(const SweepSection& section) {
  const bool is_fid = section.analysis.score_name == "fid";
  Markup content = Heading(2, "The paper's models");
  content +=
      FigureMarkup(section.figures, "paper",
                   "Peebles and Xie, arXiv 2212.09748: FID-50K of 256 px ImageNet after 400K steps of 256 images, "
                   "without guidance, 250 DDPM steps.",
                   "");
  content += Paragraph(RelationText(PaperRelation(), "fid"));
  content += Paragraph(absl::StrCat("The paper states a correlation of ", SignificantDigits(kPaperCorrelation, 2),
                                    " between Gflops and FID."));
  content += Paragraph(
      is_fid ? "This study's scores are FID, and drawn beside them; data, N and length of training are its own."
             : "This study's scores are not drawn beside them: they are distances between other features "
               "(FD), from other data. Only the trends may be compared: exponents and correlations.",
      "note");
  return content;
}

Markup DesignsSection(const SweepSection& section) {
  Markup content = Heading(2, "Conditioning designs at equal size");
  content += FigureMarkup(section.figures, "designs", "Best first. Bars: the evaluation's 95% interval.",
                          "No model was evaluated under more than one design: there is nothing to compare.");
  if (section.analysis.designs.empty()) return content;
  content += TableMarkup(DesignsTable(section.analysis));
  std::vector<std::string> paper;
  for (const PaperResult& design : kPaperDesigns) {
    paper.push_back(absl::StrCat(DesignName(design.conditioning), " ", SignificantDigits(design.fid, 4)));
  }
  content += Paragraph(
      absl::StrCat("The paper's order, FID of DiT-XL/2 after 400K steps: ", absl::StrJoin(paper, ", "), "."), "note");
  return content;
}

Markup LossSection(const SweepSection& section) {
  Markup content = Heading(2, "Training loss");
  content +=
      FigureMarkup(section.figures, "loss_curves",
                   "Means over sixty spans of images, each the same factor long; logged losses are of one batch.",
                   "No run has logged a loss yet: there is nothing to draw.");
  return content;
}

Markup GridMarkup(const StudyRun& run, const Evaluation& evaluation) {
  std::string caption = absl::StrCat(run.name, ", step ", Grouped(evaluation.step));
  if (const Measured* score = evaluation.score(); score != nullptr) {
    absl::StrAppend(&caption, ": ", MetricName(evaluation.score_name()), " ", SignificantDigits(score->value, 3),
                    IntervalText(score->interval, 3));
  }
  Markup content = evaluation.grid_png.empty() ? Paragraph(evaluation.grid_problem, "problem")
                                               : PngImage(evaluation.grid_png, absl::StrCat("Samples of ", run.name));
  content += Element("figcaption", Text(caption));
  return {absl::StrCat(Element("figure", content).text, "\n")};
}

// Of every run the newest evaluation that names a picture.
Markup GridsSection(const SweepSection& section) {
  Markup grids;
  for (const StudyRun& run : section.sweep->runs) {
    const auto found = std::find_if(run.evaluations.rbegin(), run.evaluations.rend(), [](const Evaluation& each) {
      return !each.grid_png.empty() || !each.grid_problem.empty();
    });
    if (found != run.evaluations.rend()) grids += GridMarkup(run, *found);
  }
  Markup content = Heading(2, "Samples");
  content += grids.text.empty() ? Paragraph("No evaluation has kept a picture of samples.", "note")
                                : Element("div", grids, "class=\"grids\"");
  return content;
}

Markup ScalingSectionMarkup(const ScalingSection& section) {
  Markup content = Heading(2, absl::StrCat("Scaling: ", section.scaling->name));
  for (const auto& [mode, words] : {std::pair("weak", "Weak scaling: the batch grows with the ranks."),
                                    std::pair("strong", "Strong scaling: one batch, cut over ever more ranks.")}) {
    content += Heading(3, words);
    content += FigureMarkup(
        section.figures, absl::StrCat("scaling_", mode),
        "A curve is a series: one layout on growing worlds. Efficiency: images/s of a rank over those in the series' "
        "smallest world, none where that was not measured. Dashed: ideal. Hollow: what the planner says.",
        absl::StrCat("No point of ", mode, " scaling was measured."));
  }
  content += Heading(3, "Speed");
  content += TableMarkup(ScalingSpeedTable(*section.scaling));
  content += Heading(3, "Cost, and what became of each point");
  content += TableMarkup(ScalingCostTable(*section.scaling));
  if (section.scaling->settings.empty()) return content;
  content += Heading(3, "Settings");
  content += TableMarkup(SettingsTable(section.scaling->settings));
  return content;
}

Markup RunTables(const SweepSection& section, const std::string& suffix) {
  Markup content = Heading(2, "Runs" + suffix);
  if (section.sweep->runs.empty()) content += Paragraph("The study has no runs.", "problem");
  content += TableMarkup(RunsTable(*section.sweep));
  content += Heading(2, "Scores" + suffix);
  content +=
      Paragraph("With 95% intervals, and the number of samples and references that they were computed from.", "note");
  content += TableMarkup(ScoresTable(*section.sweep, section.analysis));
  return content;
}

Markup Footer(const ReportContent& content) {
  Markup footer = Paragraph("Made by");
  for (const std::string& command : content.commands) footer += Element("pre", Text(command));
  footer += Element("pre", Text(content.version));
  return Element("footer", footer);
}

std::string Title(const ReportContent& content) {
  std::vector<std::string> names;
  for (const SweepSection& section : content.sweeps) names.push_back(section.sweep->name);
  for (const ScalingSection& section : content.scalings) names.push_back(section.scaling->name);
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return absl::StrJoin(names, ", ");
}

}  // namespace

std::string StatesText(const Sweep& sweep) {
  std::map<std::string, int64_t> states;
  for (const StudyRun& run : sweep.runs) ++states[run.state];
  const int64_t finished = states["finished"];
  states.erase("finished");
  std::vector<std::string> others;
  for (const auto& [state, count] : states) others.push_back(absl::StrCat(count, " ", state));
  return absl::StrCat(finished, " of ", sweep.runs.size(), " runs finished",
                      others.empty() ? "" : absl::StrCat(" (", absl::StrJoin(others, ", "), ")"));
}

std::string BestText(const SweepAnalysis& analysis) {
  const auto best = std::min_element(analysis.scored.begin(), analysis.scored.end(), [](const auto& a, const auto& b) {
    return a.evaluation->score()->value < b.evaluation->score()->value;
  });
  if (best == analysis.scored.end()) return "";
  const Measured& score = *best->evaluation->score();
  return absl::StrCat("best ", MetricName(analysis.score_name), " is ", SignificantDigits(score.value, 3),
                      IntervalText(score.interval, 3), ", of ", best->run->name);
}

std::string Page(const ReportContent& content) {
  const std::string title = Title(content);
  Markup body = Heading(1, title);
  for (const std::string& problem : content.study.problems) body += Paragraph(problem, "problem");
  const bool several = content.sweeps.size() > 1;
  for (const SweepSection& section : content.sweeps) {
    body += Heading(2, several ? section.sweep->name : "The study");
    body += SettingsSection(section);
    body += ScoreSections(section);
    body += PaperSection(section);
    body += DesignsSection(section);
    body += LossSection(section);
    body += GridsSection(section);
  }
  for (const ScalingSection& section : content.scalings) body += ScalingSectionMarkup(section);
  for (const SweepSection& section : content.sweeps) {
    body += RunTables(section, several ? absl::StrCat(" of ", section.sweep->name) : "");
  }
  body += Footer(content);
  return Document(title, body);
}

}  // namespace shardit
