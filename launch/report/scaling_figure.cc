#include "launch/report/scaling_figure.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/report/plot_script.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr int64_t kPanelHeight = 300;
constexpr int64_t kAxisHeight = 62;  // below the panels: numbers and labels
constexpr int64_t kKeyRowHeight = 24;
constexpr int64_t kKeyColumns = 3;

// A kind of layout: its measured and planned images/s by ranks.
struct Series {
  std::map<int64_t, double> measured, planned;
};

// One rank has no layout: it is where every kind begins.
std::map<std::string, Series> SeriesByKind(const Scaling& scaling, const std::string& mode) {
  std::map<std::string, Series> kinds;
  const auto in_mode = [&](const ScalingPoint& point) {
    return point.mode == mode && point.world > 0 && point.images_per_s.value_or(0) > 0;
  };
  for (const ScalingPoint& point : scaling.points) {
    if (in_mode(point) && point.world > 1) kinds[LayoutKind(point)];
  }
  for (const ScalingPoint& point : scaling.points) {
    if (!in_mode(point)) continue;
    if (point.world == 1 && kinds.empty()) kinds["one rank"];
    for (auto& [kind, series] : kinds) {
      if (point.world > 1 && kind != LayoutKind(point)) continue;
      series.measured[point.world] = *point.images_per_s;
      if (point.planned_images_per_s.value_or(0) > 0) series.planned[point.world] = *point.planned_images_per_s;
    }
  }
  return kinds;
}

// Throughput per rank relative to that of the fewest ranks: 1 is ideal in both modes.
std::map<int64_t, double> Efficiency(const std::map<int64_t, double>& throughput) {
  std::map<int64_t, double> efficiency;
  for (const auto& [world, images_per_s] : throughput) {
    const auto& [fewest, base] = *throughput.begin();
    efficiency[world] = images_per_s / static_cast<double>(world) / (base / static_cast<double>(fewest));
  }
  return efficiency;
}

// Both panels draw the same series, of different quantities.
struct Panel {
  std::string data;
  std::vector<std::string> items;
  std::vector<double> values;

  void Add(const std::map<int64_t, double>& points, const std::string& name, const std::string& look) {
    if (points.empty()) return;
    DataBlock block;
    for (const auto& [world, value] : points) {
      block.Row({static_cast<double>(world), value});
      values.push_back(value);
    }
    absl::StrAppend(&data, block.Definition(name));
    items.push_back(absl::StrCat("$", name, " using 1:2 with ", look, " notitle"));
  }
  std::string Plot() const { return absl::StrCat(data, "plot ", absl::StrJoin(items, ", \\\n  "), "\n"); }
};

void AddSeries(const std::map<std::string, Series>& kinds, Panel* throughput, Panel* efficiency) {
  size_t index = 0;
  for (const auto& [kind, series] : kinds) {
    const std::string filled =
        absl::StrCat("linespoints lw 1.4 ps 1.1 pt ", Marker(index, true), " lc rgb '", Colour(index), "'");
    const std::string hollow =
        absl::StrCat("points lw 1.4 ps 1.5 pt ", Marker(index, false), " lc rgb '", Colour(index), "'");
    const std::string name = absl::StrCat("d", index++);
    throughput->Add(series.planned, "tp" + name, hollow);
    throughput->Add(series.measured, "tm" + name, filled);
    efficiency->Add(Efficiency(series.planned), "ep" + name, hollow);
    efficiency->Add(Efficiency(series.measured), "em" + name, filled);
  }
}

std::vector<std::string> KeyItems(const std::map<std::string, Series>& kinds) {
  std::vector<std::string> items;
  bool planned = false;
  for (const auto& [kind, series] : kinds) {
    items.push_back(KeyMarker(Marker(items.size(), true), Colour(items.size()), kind));
    planned = planned || !series.planned.empty();
  }
  if (planned) items.push_back(KeyMarker(Marker(0, false), "#222222", "planned (hollow)"));
  items.push_back(KeyLine(2, "#666666", "ideal"));
  return items;
}

// A panel of nothing but the key, up to `top` of the figure.
std::string KeyStrip(const std::vector<std::string>& items, double top) {
  return absl::StrCat(
      "unset border\nunset xtics\nunset ytics\nunset grid\nunset xlabel\nunset ylabel\nunset logscale\n"
      "set lmargin at screen 0.05\nset rmargin at screen 0.98\nset bmargin at screen 0\nset tmargin at screen ",
      RoundTrip(top), "\nset key inside center center horizontal Left reverse maxcols ", kKeyColumns,
      " samplen 2\nplot NaN notitle, ", absl::StrJoin(items, ", \\\n  "), "\n");
}

// As in the field's papers.
std::string ScheduleName(const std::string& schedule) {
  if (schedule == "ONE_F_ONE_B") return "1F1B";
  if (schedule == "GPIPE") return "GPipe";
  if (schedule == "INTERLEAVED") return "interleaved";
  if (schedule == "ZERO_BUBBLE_H1") return "zero bubble H1";
  return schedule;
}

}  // namespace

std::string LayoutKind(const ScalingPoint& point) {
  std::vector<std::string> axes;
  if (point.dp > 1) axes.push_back("dp");
  if (point.tp > 1) axes.push_back(point.sequence_parallel ? "tp + sequence" : "tp");
  if (point.pp > 1) axes.push_back(point.schedule.empty() ? "pp" : absl::StrCat("pp ", ScheduleName(point.schedule)));
  std::string kind = absl::StrJoin(axes, " × ");
  if (point.dp > 1 && point.zero_stage > 0) absl::StrAppend(&kind, ", ZeRO ", point.zero_stage);
  return kind;
}

std::optional<FigureScript> ScalingFigure(const Scaling& scaling, const std::string& mode) {
  const std::map<std::string, Series> kinds = SeriesByKind(scaling, mode);
  if (kinds.empty()) return std::nullopt;
  Panel throughput, efficiency;
  std::set<int64_t> worlds;
  double base = 0;  // images/s of a rank where the ideal line begins
  for (const auto& [kind, series] : kinds) {
    for (const auto& [world, images_per_s] : series.measured) worlds.insert(world);
  }
  for (const auto& [kind, series] : kinds) {
    const auto& [fewest, images_per_s] = *series.measured.begin();
    if (fewest == *worlds.begin()) base = std::max(base, images_per_s / static_cast<double>(fewest));
  }
  const std::map<int64_t, double> ends = {{*worlds.begin(), 1.0}, {*worlds.rbegin(), 1.0}};
  std::map<int64_t, double> ideal;
  for (const auto& [world, one] : ends) ideal[world] = base * static_cast<double>(world);
  throughput.Add(ideal, "ideal", "lines dt 2 lw 1.3 lc rgb '#666666'");
  efficiency.Add(ends, "all", "lines dt 2 lw 1.3 lc rgb '#666666'");
  AddSeries(kinds, &throughput, &efficiency);
  efficiency.values.push_back(0);

  const std::vector<int64_t> ticks(worlds.begin(), worlds.end());
  const std::vector<std::string> key = KeyItems(kinds);
  const int64_t key_height = kKeyRowHeight * ((static_cast<int64_t>(key.size()) + kKeyColumns - 1) / kKeyColumns) + 10;
  const int64_t height = kPanelHeight + kAxisHeight + key_height;
  const auto part = [&](int64_t pixels) { return static_cast<double>(pixels) / static_cast<double>(height); };
  return FigureScript{
      .name = absl::StrCat("scaling_", mode),
      .title = absl::StrCat("Throughput and efficiency against ranks, ", mode, " scaling"),
      .width = 860,
      .height = height,
      .commands =
          absl::StrCat(CommonStyle(), "set multiplot\nset key off\nset tmargin at screen 0.97\nset bmargin at screen ",
                       RoundTrip(part(key_height + kAxisHeight)), "\n", CountAxisCommands("x", ticks, "ranks"),
                       "set lmargin at screen 0.09\nset rmargin at screen 0.49\n",
                       AxisCommands({.name = "y", .scale = AxisScale::kLog, .label = "images/s"}, throughput.values),
                       throughput.Plot(), "set lmargin at screen 0.59\nset rmargin at screen 0.985\n",
                       AxisCommands({.name = "y", .label = "efficiency (1 = ideal)"}, efficiency.values),
                       efficiency.Plot(), KeyStrip(key, part(key_height)), "unset multiplot\n")};
}

}  // namespace shardit
