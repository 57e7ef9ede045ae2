// The report's tables: columns and cells as plain text, made into HTML or CSV by one function each.
#pragma once

#include <string>
#include <vector>

#include "launch/report/analysis.h"
#include "launch/report/study.h"

namespace shardit {

struct Column {
  std::string title;
  bool numeric = false;  // aligned to the right
  bool wraps = false;    // long text, broken anywhere; other cells stay on one line
};
struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
};

// Every run, whatever became of it: state, exit code, message, attempts, steps, losses, hours.
Table RunsTable(const Sweep& sweep);
// Every evaluation: scores with their intervals and N. A dagger marks those that are not comparable with the rest.
Table ScoresTable(const Sweep& sweep, const SweepAnalysis& analysis);
// The designs at equal size.
Table DesignsTable(const SweepAnalysis& analysis);
// Every point: its speed, and what it cost and what became of it; with what was planned.
Table ScalingSpeedTable(const Scaling& scaling);
Table ScalingCostTable(const Scaling& scaling);
Table SettingsTable(const std::vector<std::pair<std::string, std::string>>& settings);

// RFC 4180. One row a run and evaluation (a run without evaluations has one), of all sweeps, full precision.
std::string RunsCsv(const Study& study);

}  // namespace shardit
