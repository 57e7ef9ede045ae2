#include "launch/report/plot_script.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr double kLargest = 1e30;  // drawn; 1 over it is the smallest on a log axis

struct Range {
  double low = 1, high = 10;
};

Range RangeOf(const std::vector<double>& values, bool positive_only) {
  Range range{HUGE_VAL, -HUGE_VAL};
  for (const double value : values) {
    // NaN fails every comparison.
    if (!(std::abs(value) <= kLargest) || (positive_only && value < 1 / kLargest)) continue;
    range = {std::min(range.low, value), std::max(range.high, value)};
  }
  return range.low <= range.high ? range : Range();
}

// Steps of 1, 2 or 5 times a power of ten.
std::vector<double> LinearTicks(Range range) {
  const double rough = (range.high - range.low) / 5;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
  std::vector<double> ticks;
  for (int64_t k = std::llround(std::ceil(range.low / step)); static_cast<double>(k) * step <= range.high; ++k) {
    ticks.push_back(static_cast<double>(k) * step);
  }
  return ticks;
}

std::vector<double> Multiples(Range range, const std::vector<double>& digits, int every_decades = 1) {
  std::vector<double> ticks;
  const int first = static_cast<int>(std::floor(std::log10(range.low))) - 1;
  for (int exponent = first; std::pow(10, exponent) <= range.high; ++exponent) {
    if (exponent % every_decades != 0) continue;
    for (const double digit : digits) {
      const double tick = exponent < 0 ? digit / std::pow(10, -exponent) : digit * std::pow(10, exponent);
      if (tick >= range.low && tick <= range.high) ticks.push_back(tick);
    }
  }
  return ticks;
}

// The densest choice that is not crowded; within a narrow range the even steps of a linear axis.
std::vector<double> LogTicks(Range range, size_t max_ticks) {
  for (const std::vector<double>& digits :
       {std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 2, 3, 5, 7}, {1, 2, 5}, {1, 3}, {1}}) {
    const std::vector<double> ticks = Multiples(range, digits);
    if (ticks.size() > max_ticks) continue;
    return ticks.size() >= 3 ? ticks : LinearTicks(range);
  }
  const int every = static_cast<int>(std::ceil(std::log10(range.high / range.low) / static_cast<double>(max_ticks)));
  return Multiples(range, {1}, every);
}

// Those with numbers, unless the axis has none, and small ones without.
std::string Ticks(const std::vector<double>& numbered, const std::vector<double>& small, bool with_numbers = true) {
  std::vector<std::string> ticks;
  for (const double tick : numbered) {
    ticks.push_back(absl::StrCat(GnuplotTickLabel(with_numbers ? TickText(tick) : ""), " ", RoundTrip(tick)));
  }
  for (const double tick : small) ticks.push_back(absl::StrCat("'' ", RoundTrip(tick), " 1"));
  return absl::StrCat("(", absl::StrJoin(ticks, ", "), ")");
}

std::string Superscript(int exponent) {
  static const char* const kDigits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "⁻" : "";
  for (const char digit : absl::StrCat(std::abs(exponent))) text += kDigits[digit - '0'];
  return text;
}

}  // namespace

void DataBlock::Row(const std::vector<double>& columns) {
  for (const double value : columns) absl::StrAppend(&rows_, std::isfinite(value) ? RoundTrip(value) : "NaN", " ");
  rows_ += "\n";
}

std::string DataBlock::Definition(const std::string& name) const {
  return absl::StrCat("$", name, " << EOD\n", rows_, "EOD\n");
}

std::string TickText(double value) {
  if (value == 0) return "0";
  const int exponent = static_cast<int>(std::floor(std::log10(std::abs(value)) + 1e-9));
  if (exponent >= -4 && exponent < 5) {
    std::string text = SignificantDigits(value, 6);
    if (text.find('.') != std::string::npos) text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  }
  const std::string mantissa = TickText(value / std::pow(10, exponent));
  return absl::StrCat(mantissa == "1" ? "" : absl::StrCat(mantissa, "·"), "10", Superscript(exponent));
}

std::string AxisCommands(const Axis& axis, const std::vector<double>& values) {
  const bool log = axis.scale == AxisScale::kLog;
  Range range = RangeOf(values, log);
  if (log) {
    const double margin = std::pow(std::max(range.high / range.low, 1.2), 0.07);
    range = {range.low / margin, range.high * margin};
  } else {
    const double margin = 0.07 * std::max(range.high - range.low, 1e-3 * std::max(std::abs(range.high), 1e-9));
    range = {range.low - margin, range.high + margin};
  }
  const std::vector<double> ticks = log ? LogTicks(range, axis.max_numbers) : LinearTicks(range);
  std::vector<double> small;
  if (log && range.high / range.low < 1e5) small = Multiples(range, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  std::erase_if(small, [&](double tick) { return std::find(ticks.begin(), ticks.end(), tick) != ticks.end(); });
  return absl::StrCat(log ? "set" : "unset", " logscale ", axis.name, "\nset ", axis.name, "range [",
                      RoundTrip(range.low), ":", RoundTrip(range.high), "]\nset ", axis.name, "tics ",
                      Ticks(ticks, small, axis.with_numbers), "\nset ", axis.name, "label ", GnuplotString(axis.label),
                      "\n");
}

std::string CountAxisCommands(const char* name, const std::vector<int64_t>& values, const std::string& label) {
  std::vector<double> ticks;
  for (const int64_t value : values) ticks.push_back(static_cast<double>(value));
  return absl::StrCat(AxisCommands({.name = name, .scale = AxisScale::kLog, .label = label}, ticks), "set ", name,
                      "tics ", Ticks(ticks, {}), "\n");
}

std::string CommonStyle() {
  return "set border 3 lc rgb '#666666'\n"
         "set tics nomirror textcolor rgb '#222222'\n"
         "set grid xtics ytics lc rgb '#e4e4e4' lt 1 lw 0.6\n"
         "set errorbars small\n"
         "set key outside right top Left reverse samplen 2 spacing 1.15\n"
         "set datafile missing NaN\n";
}

std::string Colour(size_t index) {
  static const char* const kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                         "#e69f00", "#56b4e9", "#000000", "#999999"};
  return kColours[index % std::size(kColours)];
}

int Marker(size_t index, bool filled) {
  constexpr int kFilled[] = {7, 5, 9, 13, 15};
  constexpr int kHollow[] = {6, 4, 8, 12, 14};
  return filled ? kFilled[index % std::size(kFilled)] : kHollow[index % std::size(kHollow)];
}

int Dash(size_t index) {
  constexpr int kDashes[] = {1, 2, 3, 4, 5};
  return kDashes[index % std::size(kDashes)];
}

SweepStyle::SweepStyle(const Sweep& sweep) {
  std::set<std::tuple<int64_t, int64_t, std::string>> models;
  std::set<int64_t> patches;
  std::set<std::pair<bool, std::string>> designs;
  for (const StudyRun& run : sweep.runs) {
    models.emplace(run.width, run.depth, run.model);
    patches.insert(run.patch);
    designs.emplace(!run.in_main_grid(), run.conditioning);
  }
  for (const auto& [width, depth, name] : models) {
    if (std::find(models_.begin(), models_.end(), name) == models_.end()) models_.push_back(name);
  }
  patches_.assign(patches.begin(), patches.end());
  for (const auto& [other, name] : designs) designs_.push_back(name);
}

std::string SweepStyle::ColourOf(const StudyRun& run) const {
  return Colour(static_cast<size_t>(std::find(models_.begin(), models_.end(), run.model) - models_.begin()));
}

int SweepStyle::MarkerOf(const StudyRun& run) const {
  const auto found = std::find(patches_.begin(), patches_.end(), run.patch);
  return Marker(static_cast<size_t>(found - patches_.begin()), run.in_main_grid());
}

int SweepStyle::DashOf(const StudyRun& run) const {
  return Dash(static_cast<size_t>(std::find(designs_.begin(), designs_.end(), run.conditioning) - designs_.begin()));
}

std::string KeyMarker(int marker, const std::string& colour, const std::string& text) {
  return absl::StrCat("keyentry with points pt ", marker, " ps 1 lw 1.4 lc rgb '", colour, "' title ",
                      GnuplotString(text));
}

std::string KeyLine(int dash, const std::string& colour, const std::string& text) {
  return absl::StrCat("keyentry with lines dt ", dash, " lw 1.8 lc rgb '", colour, "' title ", GnuplotString(text));
}

}  // namespace shardit
