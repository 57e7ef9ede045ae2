// The report's page and its document for machines, from what was read, computed and drawn.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/report/analysis.h"
#include "launch/report/json_fields.h"
#include "launch/report/study.h"

namespace shardit {

struct DrawnFigure {
  std::string name;
  std::string svg;      // empty: not drawn
  std::string problem;  // why not, where it should have been
};
// By the name that the figure's function gives it; figures without data are not in it.
using DrawnFigures = std::map<std::string, DrawnFigure>;

struct SweepSection {
  const Sweep* sweep = nullptr;  // of the content's study
  SweepAnalysis analysis;
  DrawnFigures figures;
};

struct ScalingSection {
  const Scaling* scaling = nullptr;
  DrawnFigures figures;
};

// Moved, never copied: sections point into the study.
struct ReportContent {
  Study study;
  std::vector<SweepSection> sweeps;
  std::vector<ScalingSection> scalings;
  std::string version;                // of the program, lines
  std::vector<std::string> commands;  // that made the study and the report
};

// One HTML file with everything in it.
std::string Page(const ReportContent& content);

// report.json (docs/formats.md): fits, correlations and tables.
Json ReportJson(const ReportContent& content);

// "9 of 12 runs finished (1 failed, 1 interrupted, 1 missing)".
std::string StatesText(const Sweep& sweep);
// "best FD 12.3 [11.9, 12.8]: W144-p2-adaln_zero-s0"; empty without scores.
std::string BestText(const SweepAnalysis& analysis);

}  // namespace shardit
