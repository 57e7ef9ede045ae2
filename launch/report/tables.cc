#include "launch/report/tables.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr char kAbsent[] = "–";
constexpr char kTogether[] = ",\u00a0";  // the ends of an interval stay on one line

std::string Cell(const std::optional<double>& value, int digits) {
  return value.has_value() ? SignificantDigits(*value, digits) : kAbsent;
}

std::string WithInterval(const Measured& measured, int digits) {
  std::string text = SignificantDigits(measured.value, digits);
  if (measured.interval.has_value()) {
    absl::StrAppend(&text, " [", SignificantDigits(measured.interval->low, digits), kTogether,
                    SignificantDigits(measured.interval->high, digits), "]");
  }
  return text;
}

// The first of `keys` that was measured.
std::string MetricCell(const Evaluation& evaluation, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (const auto found = evaluation.metrics.find(key); found != evaluation.metrics.end()) {
      return WithInterval(found->second, 3);
    }
  }
  return kAbsent;
}

std::string CountCell(int64_t count) { return count > 0 ? Grouped(count) : kAbsent; }

std::string HoursCell(const std::optional<double>& seconds) {
  return seconds.has_value() ? SignificantDigits(*seconds / 3600, 3) : kAbsent;
}

std::string MebibytesCell(const std::optional<double>& bytes) {
  return bytes.has_value() ? SignificantDigits(*bytes / (1 << 20), 3) : kAbsent;
}

std::vector<std::string> ScoresRow(const StudyRun& run, const Evaluation& evaluation, const SweepAnalysis& analysis) {
  const bool left_out = evaluation.score() != nullptr && !analysis.Comparable(evaluation);
  std::vector<std::string> row = {
      absl::StrCat(run.name, left_out ? " †" : ""), Grouped(evaluation.step),
      absl::StrCat(MetricName(evaluation.score_name()), " ", MetricCell(evaluation, {"fid", "fd"})),
      MetricCell(evaluation, {"sfid", "sfd"})};
  for (const char* key : {"is", "precision", "recall", "class_agreement"}) row.push_back(MetricCell(evaluation, {key}));
  row.push_back(absl::StrCat(CountCell(evaluation.n), " / ", CountCell(evaluation.n_reference)));
  return row;
}

std::string Planned(const std::string& measured, const std::string& planned) {
  return absl::StrCat(measured, " (", planned, ")");
}

// "2 × 2 × 1, ZeRO 1".
std::string LayoutCell(const ScalingPoint& point) {
  std::string text = absl::StrCat(point.dp, " × ", point.tp, " × ", point.pp);
  if (point.zero_stage > 0) absl::StrAppend(&text, ", ZeRO ", point.zero_stage);
  if (point.sequence_parallel) absl::StrAppend(&text, ", SP");
  if (!point.schedule.empty() && point.pp > 1) absl::StrAppend(&text, ", ", point.schedule);
  return text;
}

// Cells of a file for machines.
std::string Raw(const std::optional<double>& value) { return value.has_value() ? RoundTrip(*value) : ""; }

constexpr const char* kCsvMetrics[] = {"fid", "fd", "sfid", "sfd", "is", "precision", "recall", "class_agreement"};

void AppendRunCells(const Sweep& sweep, const StudyRun& run, std::vector<std::string>* cells) {
  *cells = {CsvText(sweep.name), CsvText(run.name), CsvText(run.model), CsvText(run.conditioning)};
  for (const int64_t count : {run.depth, run.width, run.heads, run.patch, run.seed})
    cells->push_back(absl::StrCat(count));
  cells->insert(cells->end(), {absl::StrCat(run.parameters), Raw(run.gmacs_forward)});
  for (const int64_t count : {run.steps, run.steps_done, run.images}) cells->push_back(absl::StrCat(count));
  cells->insert(cells->end(), {CsvText(run.state), run.exit_code.has_value() ? absl::StrCat(*run.exit_code) : "",
                               CsvText(run.message), absl::StrCat(run.attempts), Raw(run.train_seconds),
                               Raw(run.final_loss), Raw(run.validation_loss)});
}

void AppendEvaluationCells(const Evaluation* evaluation, std::vector<std::string>* cells) {
  const auto counted = [&](int64_t value) { cells->push_back(evaluation == nullptr ? "" : absl::StrCat(value)); };
  counted(evaluation == nullptr ? 0 : evaluation->step);
  counted(evaluation == nullptr ? 0 : evaluation->images);
  counted(evaluation == nullptr ? 0 : evaluation->n);
  counted(evaluation == nullptr ? 0 : evaluation->n_reference);
  for (const char* key : kCsvMetrics) {
    std::optional<double> value, low, high;
    if (evaluation != nullptr && evaluation->metrics.contains(key)) {
      const Measured& measured = evaluation->metrics.at(key);
      value = measured.value;
      if (measured.interval.has_value()) low = measured.interval->low, high = measured.interval->high;
    }
    cells->insert(cells->end(), {Raw(value), Raw(low), Raw(high)});
  }
}

}  // namespace

Table RunsTable(const Sweep& sweep) {
  Table table{.columns = {{"run"},
                          {"state"},
                          {"exit code", true},
                          {"attempts", true},
                          {"steps", true},
                          {"parameters", true},
                          {"Gflops", true},
                          {"loss", true},
                          {"held-out loss", true},
                          {"hours", true},
                          {"message", false, true}}};
  for (const StudyRun& run : sweep.runs) {
    table.rows.push_back({run.name, run.state, run.exit_code.has_value() ? absl::StrCat(*run.exit_code) : kAbsent,
                          CountCell(run.attempts),
                          absl::StrCat(Grouped(run.steps_done), " /\u00a0", CountCell(run.steps)),
                          CountCell(run.parameters), Cell(run.gmacs_forward, 3), Cell(run.final_loss, 4),
                          Cell(run.validation_loss, 4), HoursCell(run.train_seconds), run.message});
  }
  return table;
}

Table ScoresTable(const Sweep& sweep, const SweepAnalysis& analysis) {
  Table table{.columns = {{"run"},
                          {"step", true},
                          {"score", true},
                          {"spatial", true},
                          {"IS", true},
                          {"precision", true},
                          {"recall", true},
                          {"class agreement", true},
                          {"N / N reference", true}}};
  for (const StudyRun& run : sweep.runs) {
    for (const Evaluation& evaluation : run.evaluations) table.rows.push_back(ScoresRow(run, evaluation, analysis));
    if (run.evaluations.empty()) table.rows.push_back({run.name, kAbsent, "not evaluated", "", "", "", "", "", ""});
  }
  return table;
}

Table DesignsTable(const SweepAnalysis& analysis) {
  Table table{
      .columns = {
          {"model"}, {"design"}, {"parameters", true}, {"Gflops", true}, {MetricName(analysis.score_name), true}}};
  for (const DesignComparison& group : analysis.designs) {
    for (const ScoredRun& each : group.runs) {
      table.rows.push_back({absl::StrCat(group.model, ", patch ", group.patch), DesignName(each.run->conditioning),
                            CountCell(each.run->parameters), Cell(each.run->gmacs_forward, 3),
                            WithInterval(*each.evaluation->score(), 4)});
    }
  }
  return table;
}

Table ScalingSpeedTable(const Scaling& scaling) {
  Table table{.columns = {{"point"},
                          {"ranks", true},
                          {"dp × tp × pp"},
                          {"batch", true},
                          {"step, ms (planned)", true},
                          {"images/s (planned)", true},
                          {"speed-up", true},
                          {"efficiency", true},
                          {"exposed comm., ms", true}}};
  for (const ScalingPoint& point : scaling.points) {
    table.rows.push_back(
        {point.name, Grouped(point.world), LayoutCell(point), Grouped(point.global_batch),
         Planned(point.step_ms.has_value() ? WithInterval(*point.step_ms, 3) : kAbsent, Cell(point.planned_step_ms, 3)),
         Planned(Cell(point.images_per_s, 3), Cell(point.planned_images_per_s, 3)), Cell(point.speedup, 3),
         Cell(point.efficiency, 3), Cell(point.exposed_comm_ms, 3)});
  }
  return table;
}

Table ScalingCostTable(const Scaling& scaling) {
  Table table{.columns = {{"point"},
                          {"state"},
                          {"attempts", true},
                          {"sent a step, MiB (planned)", true},
                          {"peak memory, MiB (planned)", true},
                          {"message", false, true}}};
  for (const ScalingPoint& point : scaling.points) {
    table.rows.push_back({point.name, point.state, CountCell(point.attempts),
                          Planned(MebibytesCell(point.bytes_sent), MebibytesCell(point.planned_bytes_sent)),
                          Planned(MebibytesCell(point.peak_bytes), MebibytesCell(point.planned_peak_bytes)),
                          point.message});
  }
  return table;
}

Table SettingsTable(const std::vector<std::pair<std::string, std::string>>& settings) {
  Table table{.columns = {{"setting"}, {"value", false, true}}};
  for (const auto& [key, value] : settings) table.rows.push_back({key, value});
  return table;
}

std::string RunsCsv(const Study& study) {
  std::string csv =
      "study,run,model,conditioning,depth,width,heads,patch,seed,parameters,gmacs_forward,steps,steps_done,images,"
      "state,"
      "exit_code,message,attempts,train_seconds,final_loss,validation_loss,evaluated_step,evaluated_images,n,n_"
      "reference";
  for (const char* key : kCsvMetrics) absl::StrAppend(&csv, ",", key, ",", key, "_low,", key, "_high");
  csv += "\r\n";
  for (const Sweep& sweep : study.sweeps) {
    for (const StudyRun& run : sweep.runs) {
      for (size_t i = 0; i < std::max<size_t>(1, run.evaluations.size()); ++i) {
        std::vector<std::string> cells;
        AppendRunCells(sweep, run, &cells);
        AppendEvaluationCells(run.evaluations.empty() ? nullptr : &run.evaluations[i], &cells);
        for (size_t c = 0; c < cells.size(); ++c) absl::StrAppend(&csv, c == 0 ? "" : ",", cells[c]);
        csv += "\r\n";
      }
    }
  }
  return csv;
}

}  // namespace shardit
