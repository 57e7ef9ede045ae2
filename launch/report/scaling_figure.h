// Throughput and efficiency against the number of ranks.
#pragma once

#include <optional>
#include <string>

#include "launch/report/gnuplot.h"
#include "launch/report/study.h"

namespace shardit {

// Of the points of one mode ("weak" or "strong") that were measured; the planner's predictions are hollow. Absent where
// there are none. A line joins the points of a series (where the document names none, those cut along the same axes).
// Efficiencies are the document's own; predicted ones are against the prediction for the series' smallest world.
std::optional<FigureScript> ScalingFigure(const Scaling& scaling, const std::string& mode);

// Along which axes a layout is cut, beyond one rank: "dp", "dp × tp, ZeRO 1"; "" for one rank.
std::string LayoutKind(const ScalingPoint& point);

}  // namespace shardit
