// Training losses of all runs of a sweep: a panel a patch, on logarithmic axes.
#pragma once

#include <optional>

#include "launch/report/gnuplot.h"
#include "launch/report/study.h"

namespace shardit {

// Absent where no run has logged a loss.
std::optional<FigureScript> LossFigure(const Sweep& sweep);

// A curve as its means over at most `bins` spans of images, each the same factor long: a logged loss is of one batch,
// and its noise would hide the curves behind each other. Rows without a positive loss are left out.
LossCurve Smoothed(const LossCurve& curve, int bins);

}  // namespace shardit
