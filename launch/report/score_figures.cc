#include "launch/report/score_figures.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/report/paper_results.h"
#include "launch/report/plot_script.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr char kInk[] = "#222222";
constexpr char kFitColour[] = "#666666";

// Points of one look: their markers over their error bars.
struct PointSeries {
  int marker = 7;
  std::string colour;
  DataBlock points, bars;

  void Add(double x, const Measured& y) {
    points.Row({x, y.value});
    if (y.interval.has_value()) bars.Row({x, y.value, y.interval->low, y.interval->high});
  }
};

// Data blocks and plot items of a figure, put together as one plot command.
class Plot {
 public:
  void Points(const PointSeries& series) {
    const std::string name = absl::StrCat("d", blocks_++);
    const std::string colour = absl::StrCat(" lc rgb '", series.colour, "' notitle");
    absl::StrAppend(&data_, series.points.Definition(name));
    if (!series.bars.empty()) {
      absl::StrAppend(&data_, series.bars.Definition(name + "bars"));
      items_.push_back(absl::StrCat("$", name, "bars using 1:2:3:4 with yerrorbars pt -1 lw 1.2", colour));
    }
    items_.push_back(absl::StrCat("$", name, " using 1:2 with points pt ", series.marker, " ps 1.25 lw 1.6", colour));
  }
  void Line(const DataBlock& line, const std::string& look, const std::string& title) {
    const std::string name = absl::StrCat("d", blocks_++);
    absl::StrAppend(&data_, line.Definition(name));
    items_.push_back(absl::StrCat("$", name, " using 1:2 with lines ", look, " ",
                                  title.empty() ? "notitle" : absl::StrCat("title ", GnuplotString(title))));
  }
  void Key(const std::string& item) { items_.push_back(item); }
  std::string Commands() const { return absl::StrCat(data_, "plot ", absl::StrJoin(items_, ", \\\n  "), "\n"); }

 private:
  int blocks_ = 0;
  std::string data_;
  std::vector<std::string> items_;
};

// Score and the ends of its interval: what an axis must show.
void AddValues(const Measured& measured, std::vector<double>* values) {
  values->push_back(measured.value);
  if (measured.interval.has_value()) values->insert(values->end(), {measured.interval->low, measured.interval->high});
}

AxisScale ScoreScale(const std::vector<double>& values) {
  for (const double value : values) {
    if (value <= 0) return AxisScale::kLinear;
  }
  return AxisScale::kLog;
}

std::string ScoreLabel(const SweepAnalysis& analysis) {
  return absl::StrCat(MetricName(analysis.score_name), " (lower is better)");
}

DataBlock LawLine(const PowerLaw& law, double from, double to) {
  DataBlock line;
  constexpr int kPieces = 40;  // a curve on axes that are not both logarithmic
  for (int i = 0; i <= kPieces; ++i) {
    const double x = from * std::pow(to / from, static_cast<double>(i) / kPieces);
    line.Row({x, law.At(x)});
  }
  return line;
}

// Over the range of the fitted x; its ends become values of the axis.
void AddLaw(const std::optional<PowerLaw>& law, const std::vector<double>& x, std::vector<double>* y, Plot* plot) {
  if (!law.has_value()) return;
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  y->insert(y->end(), {law->At(*low), law->At(*high)});
  plot->Line(LawLine(*law, *low, *high), absl::StrCat("dt 2 lw 1.5 lc rgb '", kFitColour, "'"),
             absl::StrCat("fit: ", SignificantDigits(law->factor, 3), " · G^", SignificantDigits(law->exponent, 2)));
}

// What colours, markers and hollow ones mean.
void AddSweepKey(const SweepStyle& style, Plot* plot) {
  for (size_t i = 0; i < style.models().size(); ++i) {
    plot->Key(KeyLine(1, Colour(i), style.models()[i]));
  }
  for (size_t i = 0; i < style.patches().size(); ++i) {
    plot->Key(KeyMarker(Marker(i, true), kInk, absl::StrCat("patch ", style.patches()[i])));
  }
  if (style.designs().size() > 1) plot->Key(KeyMarker(Marker(0, false), kInk, "other designs"));
}

PointSeries SeriesOf(const SweepStyle& style, const StudyRun& run) {
  return {.marker = style.MarkerOf(run), .colour = style.ColourOf(run)};
}

}  // namespace

std::string LawText(const PowerLaw& law, const std::string& score) {
  std::string text = absl::StrCat(MetricName(score), " = ", SignificantDigits(law.factor, 4), " · G^",
                                  SignificantDigits(law.exponent, 3));
  if (law.exponent_error.has_value()) {
    absl::StrAppend(&text, " (standard errors: exponent ", SignificantDigits(*law.exponent_error, 2),
                    ", ln of the factor ", SignificantDigits(*law.log_factor_error, 2), ")");
  }
  return absl::StrCat(text, ", R² ", SignificantDigits(law.r_squared, 3), " of ln ", MetricName(score),
                      ", n = ", law.n);
}

std::optional<FigureScript> ScoreByGflopsFigure(const Sweep& sweep, const SweepAnalysis& analysis) {
  if (analysis.scored.empty()) return std::nullopt;
  const SweepStyle style(sweep);
  std::vector<double> x, fitted_x, y;
  Plot plot;
  for (const ScoredRun& each : analysis.scored) {
    x.push_back(*each.run->gmacs_forward);
    if (each.run->in_main_grid()) fitted_x.push_back(x.back());
    AddValues(*each.evaluation->score(), &y);
  }
  AddLaw(analysis.by_gflops.law, fitted_x, &y, &plot);
  for (const ScoredRun& each : analysis.scored) {
    PointSeries series = SeriesOf(style, *each.run);
    series.Add(*each.run->gmacs_forward, *each.evaluation->score());
    plot.Points(series);
  }
  AddSweepKey(style, &plot);
  return FigureScript{
      .name = "score_by_gflops",
      .title =
          absl::StrCat(MetricName(analysis.score_name), " against forward Gflops of ", analysis.scored.size(), " runs"),
      .commands = absl::StrCat(CommonStyle(),
                               AxisCommands({.name = "x",
                                             .scale = AxisScale::kLog,
                                             .label = "forward Gflops of an image (multiply-accumulates, 10⁹)"},
                                            x),
                               AxisCommands({.name = "y", .scale = ScoreScale(y), .label = ScoreLabel(analysis)}, y),
                               plot.Commands())};
}

std::optional<FigureScript> ScoreByComputeFigure(const Sweep& sweep, const SweepAnalysis& analysis) {
  const SweepStyle style(sweep);
  std::vector<double> x, y;
  Plot plot;
  for (const StudyRun& run : sweep.runs) {
    if (!run.gmacs_forward.has_value()) continue;
    PointSeries series = SeriesOf(style, run);
    DataBlock line;
    for (const Evaluation& evaluation : run.evaluations) {
      if (!analysis.Comparable(evaluation) || evaluation.images == 0) continue;
      x.push_back(TrainingGflops(run, evaluation));
      AddValues(*evaluation.score(), &y);
      series.Add(x.back(), *evaluation.score());
      line.Row({x.back(), evaluation.score()->value});
    }
    if (series.points.empty()) continue;
    plot.Line(line, absl::StrCat("lw 1.2 dt ", style.DashOf(run), " lc rgb '", series.colour, "'"), "");
    plot.Points(series);
  }
  if (x.empty()) return std::nullopt;
  AddSweepKey(style, &plot);
  return FigureScript{
      .name = "score_by_compute",
      .title = absl::StrCat(MetricName(analysis.score_name), " against training compute"),
      .commands = absl::StrCat(
          CommonStyle(),
          AxisCommands({.name = "x",
                        .scale = AxisScale::kLog,
                        .label = "training compute: Gflops × images × 3 (multiply-accumulates, 10⁹)"},
                       x),
          AxisCommands({.name = "y", .scale = ScoreScale(y), .label = ScoreLabel(analysis)}, y), plot.Commands())};
}

FigureScript PaperFigure(const SweepAnalysis& analysis) {
  static const std::vector<std::string> sizes = {"S", "B", "L", "XL"};
  static const std::vector<int64_t> patches = {2, 4, 8};
  std::vector<double> x, paper_x, y;
  Plot plot;
  for (const PaperResult& model : kPaperModels) {
    paper_x.push_back(model.gflops);
    y.push_back(model.fid);
  }
  x = paper_x;
  AddLaw(PaperRelation().law, paper_x, &y, &plot);
  for (const PaperResult& model : kPaperModels) {
    const auto index = [](const auto& list, const auto& value) {
      return static_cast<size_t>(std::find(list.begin(), list.end(), value) - list.begin());
    };
    PointSeries series{.marker = Marker(index(patches, model.patch), true), .colour = Colour(index(sizes, model.size))};
    series.Add(model.gflops, {model.fid, std::nullopt});
    plot.Points(series);
  }
  for (size_t i = 0; i < sizes.size(); ++i) plot.Key(KeyLine(1, Colour(i), absl::StrCat("DiT-", sizes[i])));
  for (size_t i = 0; i < patches.size(); ++i) {
    plot.Key(KeyMarker(Marker(i, true), kInk, absl::StrCat("patch ", patches[i])));
  }
  if (analysis.score_name == "fid" && !analysis.scored.empty()) {
    PointSeries ours{.marker = 3, .colour = "#000000"};
    for (const ScoredRun& each : analysis.scored) {
      x.push_back(*each.run->gmacs_forward);
      AddValues(*each.evaluation->score(), &y);
      ours.Add(x.back(), *each.evaluation->score());
    }
    plot.Points(ours);
    plot.Key(KeyMarker(3, "#000000", "this study"));
  }
  return FigureScript{
      .name = "paper",
      .title = "FID against forward Gflops of the paper's twelve models",
      .height = 400,
      .commands = absl::StrCat(CommonStyle(),
                               AxisCommands({.name = "x",
                                             .scale = AxisScale::kLog,
                                             .label = "forward Gflops of an image (multiply-accumulates, 10⁹)"},
                                            x),
                               AxisCommands({.name = "y", .scale = ScoreScale(y), .label = "FID (lower is better)"}, y),
                               plot.Commands())};
}

std::optional<FigureScript> DesignsFigure(const Sweep& sweep, const SweepAnalysis& analysis) {
  if (analysis.designs.empty()) return std::nullopt;
  const SweepStyle style(sweep);
  std::vector<double> scores;
  std::vector<std::string> ticks;
  Plot plot;
  std::string data, items;
  double row = 0;
  int series = 0;
  for (const DesignComparison& group : analysis.designs) {
    row -= 1;  // a row for the group's name
    ticks.push_back(
        absl::StrCat(GnuplotTickLabel(absl::StrCat(group.model, ", patch ", group.patch)), " ", RoundTrip(row)));
    for (const ScoredRun& each : group.runs) {
      row -= 1;
      const Measured& score = *each.evaluation->score();
      const Interval interval = score.interval.value_or(Interval{score.value, score.value});
      AddValues(score, &scores);
      ticks.push_back(
          absl::StrCat(GnuplotTickLabel(absl::StrCat("   ", DesignName(each.run->conditioning))), " ", RoundTrip(row)));
      DataBlock point;
      point.Row({score.value, row, interval.low, interval.high});
      const std::string name = absl::StrCat("d", series++);
      absl::StrAppend(&data, point.Definition(name));
      absl::StrAppend(
          &items, items.empty() ? "" : ", ", "$", name, " using 1:2:3:4 with xerrorbars pt ",
          Marker(0, each.run->in_main_grid()), " ps 1.3 lw 1.6 lc rgb '", style.ColourOf(*each.run), "' notitle", ", $",
          name, " using 1:2:(sprintf('  %.3g', $1)) with labels left offset 0.6,0.75 font 'sans-serif,11' notitle");
    }
  }
  return FigureScript{
      .name = "designs",
      .title = absl::StrCat(MetricName(analysis.score_name), " of conditioning designs at equal size"),
      .height = 110 + static_cast<int64_t>(30 * -row),
      .commands = absl::StrCat(CommonStyle(), AxisCommands({.name = "x", .label = ScoreLabel(analysis)}, scores),
                               "set yrange [", RoundTrip(row - 0.7), ":0]\nset ytics (", absl::StrJoin(ticks, ", "),
                               ") scale 0\nset lmargin 22\nset rmargin 4\nset border 1\n", data, "plot ", items, "\n")};
}

}  // namespace shardit
