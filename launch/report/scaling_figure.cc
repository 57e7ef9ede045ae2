#include "launch/report/scaling_figure.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
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

// Values by ranks. Two points on one world, as documents put together by hand may have, are both drawn.
using Curve = std::vector<std::pair<int64_t, double>>;

struct Series {
  Curve measured, planned;                        // images/s
  Curve measured_efficiency, planned_efficiency;  // against the smallest world
  // The smallest world and its images/s a rank, where that was measured: what this series' ideal is. No larger world
  // takes its place.
  std::optional<std::pair<int64_t, double>> base;
};

// What a curve joins, and its name: documents that name no series still tell layouts apart.
std::string SeriesName(const ScalingPoint& point) {
  if (!point.series.empty()) return point.series;
  const std::string kind = LayoutKind(point);
  return kind.empty() ? "one rank" : kind;
}

// Of points in order of their worlds. What was planned is drawn where something was measured.
Series MakeSeries(const std::vector<const ScalingPoint*>& points) {
  Series series;
  const auto a_rank = [](double images_per_s, const ScalingPoint& point) {
    return images_per_s / static_cast<double>(point.world);
  };
  const ScalingPoint& first = *points.front();
  const double planned_base = a_rank(first.planned_images_per_s.value_or(0), first);
  if (first.images_per_s.value_or(0) > 0) series.base = {first.world, a_rank(*first.images_per_s, first)};
  for (const ScalingPoint* point : points) {
    if (point->images_per_s.value_or(0) <= 0) continue;
    series.measured.emplace_back(point->world, *point->images_per_s);
    if (point->efficiency.has_value()) series.measured_efficiency.emplace_back(point->world, *point->efficiency);
    const double planned = point->planned_images_per_s.value_or(0);
    if (planned <= 0) continue;
    series.planned.emplace_back(point->world, planned);
    if (planned_base <= 0) continue;
    series.planned_efficiency.emplace_back(point->world, a_rank(planned, *point) / planned_base);
  }
  return series;
}

// Those of one mode with a measured point.
std::map<std::string, Series> SeriesByName(const Scaling& scaling, const std::string& mode) {
  std::map<std::string, std::vector<const ScalingPoint*>> points;
  for (const ScalingPoint& point : scaling.points) {
    if (point.mode == mode && point.world > 0) points[SeriesName(point)].push_back(&point);
  }
  std::map<std::string, Series> all;
  for (auto& [name, own] : points) {
    std::stable_sort(own.begin(), own.end(), [](const auto* a, const auto* b) { return a->world < b->world; });
    Series series = MakeSeries(own);
    if (!series.measured.empty()) all[name] = std::move(series);
  }
  return all;
}

// The fastest ideal among the series that begin with the fewest ranks, up to `largest`; empty where no series has one.
Curve IdealThroughput(const std::map<std::string, Series>& all, int64_t largest) {
  std::optional<std::pair<int64_t, double>> best;
  for (const auto& [name, series] : all) {
    if (!series.base.has_value()) continue;
    const auto& [world, a_rank] = *series.base;
    if (!best.has_value() || world < best->first || (world == best->first && a_rank > best->second)) best = series.base;
  }
  if (!best.has_value()) return {};
  const auto at = [&](int64_t world) { return std::pair(world, best->second * static_cast<double>(world)); };
  return {at(best->first), at(largest)};
}

// Both panels draw the same series, of different quantities.
struct Panel {
  std::string data;
  std::vector<std::string> items;
  std::vector<double> values;

  void Add(const Curve& points, const std::string& name, const std::string& look) {
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

void AddSeries(const std::map<std::string, Series>& all, Panel* throughput, Panel* efficiency) {
  size_t index = 0;
  for (const auto& [series_name, series] : all) {
    const std::string filled =
        absl::StrCat("linespoints lw 1.4 ps 1.1 pt ", Marker(index, true), " lc rgb '", Colour(index), "'");
    const std::string hollow =
        absl::StrCat("points lw 1.4 ps 1.5 pt ", Marker(index, false), " lc rgb '", Colour(index), "'");
    const std::string name = absl::StrCat("d", index++);
    throughput->Add(series.planned, "tp" + name, hollow);
    throughput->Add(series.measured, "tm" + name, filled);
    efficiency->Add(series.planned_efficiency, "ep" + name, hollow);
    efficiency->Add(series.measured_efficiency, "em" + name, filled);
  }
}

std::vector<std::string> KeyItems(const std::map<std::string, Series>& all) {
  std::vector<std::string> items;
  bool planned = false;
  for (const auto& [name, series] : all) {
    items.push_back(KeyMarker(Marker(items.size(), true), Colour(items.size()), name));
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
  const std::map<std::string, Series> all = SeriesByName(scaling, mode);
  if (all.empty()) return std::nullopt;
  Panel throughput, efficiency;
  std::set<int64_t> worlds;
  for (const auto& [name, series] : all) {
    for (const auto& [world, images_per_s] : series.measured) worlds.insert(world);
  }
  const std::string ideal = "lines dt 2 lw 1.3 lc rgb '#666666'";
  throughput.Add(IdealThroughput(all, *worlds.rbegin()), "ideal", ideal);
  efficiency.Add({{*worlds.begin(), 1.0}, {*worlds.rbegin(), 1.0}}, "all", ideal);
  AddSeries(all, &throughput, &efficiency);
  efficiency.values.push_back(0);

  const std::vector<int64_t> ticks(worlds.begin(), worlds.end());
  const std::vector<std::string> key = KeyItems(all);
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
