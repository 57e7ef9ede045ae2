// Draws a figure with gnuplot, found in PATH, as SVG that can stand in one page with others.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shardit {

struct FigureScript {
  std::string name;                   // letters, digits, - and _: the file's name, and unique in the page
  std::string title;                  // what the figure shows, for readers that do not see it
  int64_t width = 760, height = 460;  // pixels
  std::string commands;               // everything after the choice of the terminal; data inline
};

// The figure as one <svg> element: no XML declaration, every id prefixed with `name`, no scripts, nothing outside
// itself. The same script gives the same bytes. NotFound where there is no gnuplot; Internal with gnuplot's words where
// it failed.
absl::StatusOr<std::string> DrawFigure(const FigureScript& figure);

// What DrawFigure makes of gnuplot's own output.
std::string TidySvg(const std::string& raw, const FigureScript& figure);

}  // namespace shardit
