#include "launch/report/loss_figure.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/report/plot_script.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr int kBins = 60;
constexpr int64_t kWidth = 860;
constexpr int64_t kPanelHeight = 300;
constexpr int64_t kMaxColumns = 3;
constexpr int64_t kKeyHeight = 70;
constexpr char kInk[] = "#222222";

struct Curve {
  const StudyRun* run;
  LossCurve smooth;
};

std::vector<Curve> SmoothedCurves(const Sweep& sweep) {
  std::vector<Curve> curves;
  for (const StudyRun& run : sweep.runs) {
    LossCurve smooth = Smoothed(run.curve, kBins);
    if (!smooth.images.empty()) curves.push_back({&run, std::move(smooth)});
  }
  return curves;
}

// One panel of the grid of panels, in fractions of the whole figure.
std::string PanelMargins(int64_t panel, int64_t columns, int64_t rows, double key_fraction) {
  const double left = 0.075, right = 0.985, bottom = key_fraction + 0.6 * key_fraction, top = 0.93;
  const double width = (right - left) / static_cast<double>(columns);
  const double height = (top - bottom) / static_cast<double>(rows);
  const double x = left + width * static_cast<double>(panel % columns);
  const double y = top - height * static_cast<double>(panel / columns + 1);
  return absl::StrCat("set lmargin at screen ", RoundTrip(x), "\nset rmargin at screen ", RoundTrip(x + width - 0.02),
                      "\nset bmargin at screen ", RoundTrip(y + (rows > 1 ? 0.05 : 0)), "\nset tmargin at screen ",
                      RoundTrip(y + height - (rows > 1 ? 0.03 : 0)), "\n");
}

std::string PanelPlot(const std::vector<Curve>& curves, int64_t patch, const SweepStyle& style) {
  std::string data;
  std::vector<std::string> items;
  for (const Curve& curve : curves) {
    if (curve.run->patch != patch) continue;
    DataBlock line;
    for (size_t i = 0; i < curve.smooth.images.size(); ++i) line.Row({curve.smooth.images[i], curve.smooth.loss[i]});
    const std::string name = absl::StrCat("d", items.size());
    absl::StrAppend(&data, line.Definition(name));
    items.push_back(absl::StrCat("$", name, " using 1:2 with lines lw 1.6 dt ", style.DashOf(*curve.run), " lc rgb '",
                                 style.ColourOf(*curve.run), "' notitle"));
  }
  return absl::StrCat(data, "set title ", GnuplotString(absl::StrCat("patch ", patch)), " offset 0,-0.6\nplot ",
                      absl::StrJoin(items, ", "), "\n");
}

// A panel of nothing but the key, along the lower edge.
std::string KeyStrip(const SweepStyle& style, double key_fraction) {
  std::vector<std::string> items = {"NaN notitle"};
  for (size_t i = 0; i < style.models().size(); ++i) items.push_back(KeyLine(1, Colour(i), style.models()[i]));
  for (size_t i = 0; style.designs().size() > 1 && i < style.designs().size(); ++i) {
    items.push_back(KeyLine(Dash(i), kInk, DesignName(style.designs()[i])));
  }
  return absl::StrCat(
      "unset title\nunset border\nunset xtics\nunset ytics\nunset grid\nunset xlabel\nunset ylabel\n"
      "set lmargin at screen 0.05\nset rmargin at screen 0.98\nset bmargin at screen 0\nset tmargin at screen ",
      RoundTrip(0.8 * key_fraction),
      "\nset key inside center center horizontal Left reverse maxcols 5 samplen 2.5\nplot ",
      absl::StrJoin(items, ", \\\n  "), "\n");
}

}  // namespace

LossCurve Smoothed(const LossCurve& curve, int bins) {
  std::vector<std::pair<double, double>> rows;
  for (size_t i = 0; i < curve.images.size(); ++i) {
    if (curve.images[i] > 0 && curve.loss[i] > 0) rows.emplace_back(curve.images[i], curve.loss[i]);
  }
  LossCurve smooth;
  if (rows.empty()) return smooth;
  std::sort(rows.begin(), rows.end());
  const double first = std::log(rows.front().first);
  const double width = std::max((std::log(rows.back().first) - first) / bins, 1e-12);
  const auto bin_of = [&](double images) {
    return std::min<double>(bins - 1, std::floor((std::log(images) - first) / width));
  };
  for (size_t begin = 0; begin < rows.size();) {
    double images = 0, loss = 0;
    size_t end = begin;
    for (; end < rows.size() && bin_of(rows[end].first) == bin_of(rows[begin].first); ++end) {
      images += rows[end].first;
      loss += rows[end].second;
    }
    smooth.images.push_back(images / static_cast<double>(end - begin));
    smooth.loss.push_back(loss / static_cast<double>(end - begin));
    begin = end;
  }
  return smooth;
}

std::optional<FigureScript> LossFigure(const Sweep& sweep) {
  const std::vector<Curve> curves = SmoothedCurves(sweep);
  if (curves.empty()) return std::nullopt;
  const SweepStyle style(sweep);
  std::vector<int64_t> patches;  // those with curves
  std::vector<double> images, losses;
  for (const Curve& curve : curves) {
    patches.push_back(curve.run->patch);
    images.insert(images.end(), curve.smooth.images.begin(), curve.smooth.images.end());
    losses.insert(losses.end(), curve.smooth.loss.begin(), curve.smooth.loss.end());
  }
  std::sort(patches.begin(), patches.end());
  patches.erase(std::unique(patches.begin(), patches.end()), patches.end());

  const int64_t panels = static_cast<int64_t>(patches.size()), columns = std::min(panels, kMaxColumns);
  const int64_t rows = (panels + columns - 1) / columns, height = rows * kPanelHeight + kKeyHeight;
  const double key_fraction = static_cast<double>(kKeyHeight) / static_cast<double>(height);
  std::string commands = absl::StrCat(CommonStyle(), "set multiplot\nset key off\n");
  for (int64_t panel = 0; panel < panels; ++panel) {
    const bool leftmost = panel % columns == 0;
    absl::StrAppend(
        &commands, PanelMargins(panel, columns, rows, key_fraction),
        AxisCommands({.name = "x",
                      .scale = AxisScale::kLog,
                      .label = panel + columns >= panels ? "images seen" : "",
                      .max_numbers = 4},
                     images),
        AxisCommands(
            {.name = "y", .scale = AxisScale::kLog, .label = leftmost ? "training loss" : "", .with_numbers = leftmost},
            losses),
        PanelPlot(curves, patches[static_cast<size_t>(panel)], style));
  }
  return FigureScript{.name = "loss_curves",
                      .title = absl::StrCat("Training loss of ", curves.size(), " runs"),
                      .width = kWidth,
                      .height = height,
                      .commands = absl::StrCat(commands, KeyStrip(style, key_fraction), "unset multiplot\n")};
}

}  // namespace shardit
