#include "launch/scaling/scaling_results.h"

#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/json/json.h"
#include "launch/scaling/scaling_figures.h"
#include "launch/study/run_files.h"
#include "launch/study/task_record.h"

namespace shardit {
namespace {

std::vector<TimedStep> TimedSteps(const std::vector<Json>& rows) {
  std::vector<TimedStep> steps;
  for (const Json& row : rows) {
    const Json& sent = Member(row, "bytes_sent");
    steps.push_back({.step = IntegerField(row, "step").value_or(0),
                     .step_ms = NumberField(row, "step_ms").value_or(0),
                     .exposed_comm_ms = NumberField(row, "exposed_comm_ms").value_or(0),
                     .bytes_dp = IntegerField(sent, "dp").value_or(0),
                     .bytes_tp = IntegerField(sent, "tp").value_or(0),
                     .bytes_pp = IntegerField(sent, "pp").value_or(0),
                     .peak_bytes = IntegerField(row, "peak_bytes").value_or(0)});
  }
  return steps;
}

// The part of a plan that is measured too.
Json Planned(const std::string& folder) {
  const std::optional<Json> plan = ReadJson(JoinPath(folder, kPlanFile));
  if (!plan.has_value()) return nullptr;
  const Json &step = Member(*plan, "step"), &sent = Member(*plan, "bytes_sent");
  if (!step.is_object() || !sent.is_object()) return nullptr;
  return {{"step_ms", Member(step, "step_ms")},
          {"images_per_s", Member(step, "images_per_s")},
          {"bytes_sent", sent},
          {"peak_bytes", Member(*plan, "peak_bytes")}};
}

Json Layout(const SeriesPoint& point) {
  const ParallelOptions& parallel = point.config.options.parallel;
  return {{"name", point.name},
          {"series", point.series},
          {"mode", point.weak ? "weak" : "strong"},
          {"world", point.world},
          {"dp", parallel.dp},
          {"tp", parallel.tp},
          {"pp", parallel.pp},
          {"zero_stage", parallel.zero_stage},
          {"sequence_parallel", parallel.sequence_parallel},
          {"schedule", std::string(Name(parallel.schedule))},
          {"global_batch", point.config.options.train.global_batch},
          {"micro_batch", point.config.options.train.micro_batch}};
}

Json CollectPoint(const ScalingStudy& study, const SeriesPoint& point) {
  const std::string folder = PointFolder(study, point);
  const TaskRecord record = ReadTaskRecord(folder);
  Json json = Layout(point);
  json["state"] = std::string(Name(record.state));
  json["message"] = record.message;
  json["attempts"] = record.attempts;
  const std::optional<PointFigures> figures =
      MeasurePoint(TimedSteps(ReadMetrics(folder)), study.warmup_steps, point.config.options.train.global_batch);
  for (const char* key : {"timed_steps", "step_ms", "step_ms_interval", "images_per_s", "speedup", "efficiency",
                          "exposed_comm_ms", "bytes_sent", "peak_bytes"}) {
    json[key] = nullptr;
  }
  // A point that was cut short is not a measurement.
  if (figures.has_value() && figures->timed_steps == study.steps) {
    json["timed_steps"] = figures->timed_steps;
    json["step_ms"] = figures->step_ms;
    if (const auto& interval = figures->step_ms_interval)
      json["step_ms_interval"] = {interval->first, interval->second};
    json["images_per_s"] = figures->images_per_s;
    json["exposed_comm_ms"] = figures->exposed_comm_ms;
    json["bytes_sent"] = {{"dp", figures->bytes_dp}, {"tp", figures->bytes_tp}, {"pp", figures->bytes_pp}};
    json["peak_bytes"] = figures->peak_bytes;
  }
  json["planned"] = Planned(folder);
  return json;
}

// Against the smallest world of the point's series, where both were measured.
void AddEfficiency(Json* points) {
  std::map<std::string, const Json*> smallest;
  for (const Json& point : *points) {
    const Json*& known = smallest[point["series"]];
    if (known == nullptr || point["world"] < (*known)["world"]) known = &point;
  }
  for (Json& point : *points) {
    const Json& base = *smallest[point["series"]];
    if (!point["images_per_s"].is_number() || !base["images_per_s"].is_number()) continue;
    const Scaled scaled = ScaleAgainst(point["images_per_s"], point["world"], base["images_per_s"], base["world"]);
    point["speedup"] = scaled.speedup;
    point["efficiency"] = scaled.efficiency;
  }
}

std::string Cell(const Json& value, int digits) {
  return value.is_number() ? absl::StrFormat("%.*f", digits, value.get<double>()) : "-";
}

double TotalSent(const Json& bytes) {
  double sum = 0;
  for (const char* axis : {"dp", "tp", "pp"}) sum += NumberField(bytes, axis).value_or(0);
  return sum;
}

std::string MibCell(const Json& bytes) {
  return bytes.is_object() ? absl::StrFormat("%.2f", TotalSent(bytes) / (1 << 20)) : "-";
}

std::string Csv(const Json& scaling) {
  std::string text =
      "name,mode,world,dp,tp,pp,zero_stage,sequence_parallel,global_batch,state,step_ms,images_per_s,speedup,"
      "efficiency,"
      "exposed_comm_ms,bytes_dp,bytes_tp,bytes_pp,peak_bytes,planned_step_ms,planned_images_per_s\n";
  const auto cell = [](const Json& value) {
    return value.is_null() ? "" : value.is_string() ? value.get<std::string>() : value.dump();
  };
  for (const Json& point : scaling["points"]) {
    std::vector<std::string> cells;
    for (const char* key :
         {"name", "mode", "world", "dp", "tp", "pp", "zero_stage", "sequence_parallel", "global_batch", "state",
          "step_ms", "images_per_s", "speedup", "efficiency", "exposed_comm_ms"}) {
      cells.push_back(cell(point[key]));
    }
    for (const char* axis : {"dp", "tp", "pp"})
      cells.push_back(cell(point["bytes_sent"].is_object() ? point["bytes_sent"][axis] : Json()));
    cells.push_back(cell(point["peak_bytes"]));
    for (const char* key : {"step_ms", "images_per_s"})
      cells.push_back(cell(point["planned"].is_object() ? point["planned"][key] : Json()));
    absl::StrAppend(&text, absl::StrJoin(cells, ","), "\n");
  }
  return text;
}

}  // namespace

absl::StatusOr<Json> CollectScaling(const std::string& study_folder) {
  const std::string path = JoinPath(study_folder, kScalingFile);
  if (KindOfPath(path) != PathKind::kFile) return absl::NotFoundError(absl::StrCat(path, ": there is no such study"));
  ASSIGN_OR_RETURN(ScalingStudy study, LoadScaling(path));
  study.out = study_folder;  // it may have been moved
  Json json{{"kind", "scaling"}, {"name", study.name}, {"folder", study_folder}};
  const RunOptions& options = study.points.front().config.options;
  json["settings"] = {{"model", options.model.name},
                      {"depth", options.model.depth},
                      {"width", options.model.width},
                      {"heads", options.model.heads},
                      {"patch", options.model.patch},
                      {"warmup_steps", study.warmup_steps},
                      {"steps", study.steps},
                      {"threads", options.train.threads},
                      {"cluster", study.cluster.empty() ? "measured" : study.cluster}};
  json["points"] = Json::array();
  for (const SeriesPoint& point : study.points) json["points"].push_back(CollectPoint(study, point));
  AddEfficiency(&json["points"]);
  return json;
}

std::string ScalingTable(const Json& scaling) {
  std::string text =
      absl::StrFormat("%-24s %-6s %5s %5s %10s %10s %10s %8s %6s %8s %9s %9s\n", "point", "mode", "ranks", "batch",
                      "step ms", "planned", "images/s", "speedup", "eff.", "exposed", "MiB sent", "planned");
  for (const Json& point : scaling["points"]) {
    const Json planned =
        point["planned"].is_object() ? point["planned"] : Json{{"step_ms", nullptr}, {"bytes_sent", nullptr}};
    absl::StrAppendFormat(&text, "%-24s %-6s %5d %5d %10s %10s %10s %8s %6s %8s %9s %9s\n",
                          point["name"].get<std::string>(), point["mode"].get<std::string>(),
                          point["world"].get<int64_t>(), point["global_batch"].get<int64_t>(),
                          Cell(point["step_ms"], 2), Cell(planned["step_ms"], 2), Cell(point["images_per_s"], 1),
                          Cell(point["speedup"], 2), Cell(point["efficiency"], 2), Cell(point["exposed_comm_ms"], 2),
                          MibCell(point["bytes_sent"]), MibCell(planned["bytes_sent"]));
    if (point["state"] != "finished") {
      absl::StrAppend(&text, "  ", point["state"].get<std::string>(), " ", point["message"].get<std::string>(), "\n");
    }
  }
  return text;
}

absl::Status WriteScalingResults(const std::string& study_folder) {
  ASSIGN_OR_RETURN(const Json scaling, CollectScaling(study_folder));
  RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), JoinPath(study_folder, "scaling.json"), JsonText(scaling) + "\n"));
  return AtomicWriteFile(PosixFileSystem(), JoinPath(study_folder, "scaling.csv"), Csv(scaling));
}

}  // namespace shardit
