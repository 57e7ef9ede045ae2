// ReportJson of launch/report/page.h.
#include "launch/report/page.h"
#include "launch/report/paper_results.h"

namespace shardit {
namespace {

Json ToJson(const std::optional<double>& value) { return value.has_value() ? Json(*value) : Json(); }

Json ToJson(const std::optional<Interval>& interval) {
  return interval.has_value() ? Json::array({interval->low, interval->high}) : Json();
}

Json ToJson(const std::optional<Correlation>& correlation) {
  if (!correlation.has_value()) return nullptr;
  return {{"r", correlation->r}, {"interval", ToJson(correlation->interval)}, {"n", correlation->n}};
}

Json ToJson(const std::optional<PowerLaw>& law) {
  if (!law.has_value()) return nullptr;
  return {{"factor", law->factor},
          {"exponent", law->exponent},
          {"log_factor_error", ToJson(law->log_factor_error)},
          {"exponent_error", ToJson(law->exponent_error)},
          {"r_squared", law->r_squared},
          {"n", law->n}};
}

Json ToJson(const ScoreRelation& relation) {
  return {{"n", relation.n},
          {"law", ToJson(relation.law)},
          {"pearson_log_log", ToJson(relation.log_log)},
          {"pearson_log_linear", ToJson(relation.log_linear)},
          {"spearman", ToJson(relation.spearman)}};
}

Json EvaluationJson(const StudyRun& run, const Evaluation& evaluation, const SweepAnalysis& analysis) {
  Json json = {{"step", evaluation.step}, {"images", evaluation.images}};
  for (const auto& [key, measured] : evaluation.metrics) {
    json[key] = measured.value;
    if (measured.interval.has_value()) json[key + "_interval"] = ToJson(measured.interval);
  }
  json["n"] = evaluation.n;
  json["n_reference"] = evaluation.n_reference;
  json["comparable"] = analysis.Comparable(evaluation);
  json["training_gflops"] = run.gmacs_forward.has_value() ? Json(TrainingGflops(run, evaluation)) : Json();
  return json;
}

Json RunJson(const StudyRun& run, const SweepAnalysis& analysis) {
  Json evaluations = Json::array();
  for (const Evaluation& evaluation : run.evaluations) evaluations.push_back(EvaluationJson(run, evaluation, analysis));
  return {{"name", run.name},
          {"model", run.model},
          {"patch", run.patch},
          {"conditioning", run.conditioning},
          {"seed", run.seed},
          {"parameters", run.parameters},
          {"gmacs_forward", ToJson(run.gmacs_forward)},
          {"steps", run.steps},
          {"steps_done", run.steps_done},
          {"state", run.state},
          {"exit_code", run.exit_code.has_value() ? Json(*run.exit_code) : Json()},
          {"message", run.message},
          {"attempts", run.attempts},
          {"train_seconds", ToJson(run.train_seconds)},
          {"final_loss", ToJson(run.final_loss)},
          {"validation_loss", ToJson(run.validation_loss)},
          {"evaluations", std::move(evaluations)}};
}

Json DesignsJson(const SweepAnalysis& analysis) {
  Json designs = Json::array();
  for (const DesignComparison& group : analysis.designs) {
    Json runs = Json::array();
    for (const ScoredRun& each : group.runs) {
      const Measured& score = *each.evaluation->score();
      runs.push_back({{"run", each.run->name},
                      {"conditioning", each.run->conditioning},
                      {"score", score.value},
                      {"interval", ToJson(score.interval)}});
    }
    designs.push_back({{"model", group.model}, {"patch", group.patch}, {"runs", std::move(runs)}});
  }
  return designs;
}

Json FigureNames(const DrawnFigures& figures) {
  Json names = Json::array();
  for (const auto& [key, figure] : figures) {
    if (!figure.svg.empty()) names.push_back(figure.name + ".svg");
  }
  return names;
}

Json SettingsJson(const std::vector<std::pair<std::string, std::string>>& settings) {
  Json json = Json::object();
  for (const auto& [key, value] : settings) json[key] = value;
  return json;
}

Json SweepJson(const SweepSection& section) {
  const SweepAnalysis& analysis = section.analysis;
  Json runs = Json::array();
  for (const StudyRun& run : section.sweep->runs) runs.push_back(RunJson(run, analysis));
  return {{"name", section.sweep->name},
          {"folder", section.sweep->folder},
          {"settings", SettingsJson(section.sweep->settings)},
          {"score", analysis.score_name},
          {"score_by_gflops", ToJson(analysis.by_gflops)},
          {"evaluations_left_out", analysis.evaluations_left_out},
          {"designs", DesignsJson(analysis)},
          {"runs", std::move(runs)},
          {"figures", FigureNames(section.figures)}};
}

Json PointJson(const ScalingPoint& point) {
  return {{"name", point.name},
          {"mode", point.mode},
          {"series", point.series},
          {"world", point.world},
          {"dp", point.dp},
          {"tp", point.tp},
          {"pp", point.pp},
          {"zero_stage", point.zero_stage},
          {"sequence_parallel", point.sequence_parallel},
          {"schedule", point.schedule},
          {"global_batch", point.global_batch},
          {"state", point.state},
          {"message", point.message},
          {"step_ms", point.step_ms.has_value() ? Json(point.step_ms->value) : Json()},
          {"images_per_s", ToJson(point.images_per_s)},
          {"planned_images_per_s", ToJson(point.planned_images_per_s)},
          {"speedup", ToJson(point.speedup)},
          {"efficiency", ToJson(point.efficiency)},
          {"exposed_comm_ms", ToJson(point.exposed_comm_ms)},
          {"bytes_sent", ToJson(point.bytes_sent)},
          {"planned_bytes_sent", ToJson(point.planned_bytes_sent)},
          {"peak_bytes", ToJson(point.peak_bytes)},
          {"planned_peak_bytes", ToJson(point.planned_peak_bytes)}};
}

}  // namespace

Json ReportJson(const ReportContent& content) {
  Json sweeps = Json::array(), scalings = Json::array();
  for (const SweepSection& section : content.sweeps) sweeps.push_back(SweepJson(section));
  for (const ScalingSection& section : content.scalings) {
    Json points = Json::array();
    for (const ScalingPoint& point : section.scaling->points) points.push_back(PointJson(point));
    scalings.push_back({{"name", section.scaling->name},
                        {"folder", section.scaling->folder},
                        {"settings", SettingsJson(section.scaling->settings)},
                        {"points", std::move(points)},
                        {"figures", FigureNames(section.figures)}});
  }
  return {{"kind", "report"},
          {"sweeps", std::move(sweeps)},
          {"scalings", std::move(scalings)},
          {"paper", {{"score_by_gflops", ToJson(PaperRelation())}, {"stated_correlation", kPaperCorrelation}}},
          {"problems", content.study.problems},
          {"commands", content.commands},
          {"version", content.version}};
}

}  // namespace shardit
