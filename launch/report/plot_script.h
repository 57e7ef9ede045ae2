// Pieces of gnuplot scripts that the report's figures share: axes with ticks of our own choosing, data blocks, and the
// colours and markers by which models are told apart.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "launch/report/study.h"

namespace shardit {

// Data and its points as a text of rows, columns separated by blanks.
class DataBlock {
 public:
  void Row(const std::vector<double>& columns);
  void Gap() { rows_ += "\n"; }  // ends a line of linked points
  bool empty() const { return rows_.empty(); }
  // "$name << EOD ... EOD".
  std::string Definition(const std::string& name) const;

 private:
  std::string rows_;
};

enum class AxisScale { kLinear, kLog };

struct Axis {
  const char* name = "x";  // or "y"
  AxisScale scale = AxisScale::kLinear;
  std::string label;
  size_t max_numbers = 8;    // at ticks
  bool with_numbers = true;  // panels beside each other share theirs
};

// Range and ticks such that all of `values` lie within, with a margin. Passed over are values that are not finite or
// beyond 1e30 and, on log axes, those below 1e-30. Without values the range is 1 to 10.
std::string AxisCommands(const Axis& axis, const std::vector<double>& values);
// An axis of counts: a tick at each of `values` and nowhere else.
std::string CountAxisCommands(const char* name, const std::vector<int64_t>& values, const std::string& label);

// "0.02", "500", "2·10⁵": short enough for a tick.
std::string TickText(double value);

// The look of all figures: thin grey frame to the left and below, a light grid.
std::string CommonStyle();

// Eight colours that the colour-blind tell apart (Okabe and Ito), also by lightness on paper; repeats after eight.
std::string Colour(size_t index);
// gnuplot's number of the index-th marker: circle, square, triangle, diamond, pentagon, in turn.
int Marker(size_t index, bool filled);
// gnuplot's number of the index-th dash type, solid first.
int Dash(size_t index);

// Which colour stands for a model and which marker for a patch, over all figures of a sweep.
class SweepStyle {
 public:
  explicit SweepStyle(const Sweep& sweep);
  const std::vector<std::string>& models() const { return models_; }  // by width, then depth
  const std::vector<int64_t>& patches() const { return patches_; }
  const std::vector<std::string>& designs() const { return designs_; }  // the main grid's first
  std::string ColourOf(const StudyRun& run) const;
  int MarkerOf(const StudyRun& run) const;  // hollow outside the main grid
  int DashOf(const StudyRun& run) const;    // by design

 private:
  std::vector<std::string> models_, designs_;
  std::vector<int64_t> patches_;
};

// Entries of a key, as items of a plot command.
std::string KeyMarker(int marker, const std::string& colour, const std::string& text);
std::string KeyLine(int dash, const std::string& colour, const std::string& text);

}  // namespace shardit
