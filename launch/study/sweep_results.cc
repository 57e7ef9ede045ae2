#include "launch/study/sweep_results.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/json/json.h"
#include "launch/study/run_files.h"
#include "launch/study/sweep.h"
#include "launch/study/sweep_state.h"
#include "launch/study/task_record.h"
#include "model/dit_variants.h"

namespace shardit {
namespace {

// In the order of columns; a Frechet distance is called fid where the extractor is the one that the name stands for.
constexpr const char* kScores[] = {"fid", "fd", "sfid", "sfd", "is", "precision", "recall", "class_agreement"};

// A path below the study's folder, as it counts from there.
std::string Below(const SweepStudy& sweep, const std::string& path) {
  return std::string(absl::StripPrefix(path, JoinPath(sweep.folder, "")));
}

Json BudgetJson(const SweepStudy& sweep) {
  if (sweep.budget.images > 0) return {{"images", sweep.budget.images}};
  if (sweep.budget.train_gflops > 0) return {{"train_gflops", sweep.budget.train_gflops}};
  return {{"steps", sweep.runs.front().config.options.train.steps}};
}

// The extractor as an evaluation saw it: known once there is one.
Json ExtractorJson(const SweepStudy& sweep, const Json& runs) {
  Json json{{"path", sweep.evaluation->extractor}, {"sha256", nullptr}, {"architecture", nullptr}, {"resize", nullptr}};
  for (const Json& run : runs) {
    for (const Json& evaluation : run["evaluations"]) {
      const auto seen = evaluation.find("extractor");
      if (seen == evaluation.end() || !seen->is_object()) continue;
      for (const char* key : {"sha256", "architecture", "resize"}) json[key] = seen->value(key, Json());
      return json;
    }
  }
  return json;
}

Json SettingsJson(const SweepStudy& sweep, const Json& runs) {
  if (!sweep.evaluation.has_value()) return Json::object();
  const SweepEvaluation& asked = *sweep.evaluation;
  return {{"sampler", asked.sampler},
          {"steps", asked.steps},
          {"cfg_scale", asked.cfg_scale},
          {"cfg_channels", asked.cfg_channels},
          {"weights", asked.weights},
          {"samples", asked.samples},
          {"seed", asked.seed},
          {"metrics", asked.metrics.empty() ? std::vector<std::string>{"fid", "sfid", "is", "pr"} : asked.metrics},
          {"extractor", ExtractorJson(sweep, runs)},
          {"reference", asked.reference},
          {"bootstrap", asked.bootstrap}};
}

Json ModelJson(const SweepRun& run) {
  const RunOptions& options = run.config.options;
  const DitConfig& model = options.model;
  return {{"name", run.name},
          {"model", run.model},
          {"depth", model.depth},
          {"width", model.width},
          {"heads", model.heads},
          {"patch", model.patch},
          {"conditioning", std::string(Name(model.conditioning))},
          {"seed", options.train.seed},
          {"parameters", ParameterCount(model)},
          {"gmacs_forward", GmacsForward(model)},
          {"train_gflops_per_image", 1e-9 * TrainFlops(model)},
          {"steps", options.train.steps}};
}

// How far training came and what it cost. A row stands for the steps since the row before it.
void AddTraining(const SweepStudy& sweep, const SweepRun& run, Json* json) {
  int64_t last_step = 0;
  double seconds = 0;
  Json loss, validation_loss;
  for (const Json& row : ReadMetrics(sweep.RunPath(run))) {
    const int64_t step = row["step"];
    if (step > run.config.options.train.steps) break;
    seconds += 1e-3 * NumberField(row, "step_ms").value_or(0) * static_cast<double>(step - last_step);
    last_step = step;
    loss = Member(row, "loss");
    if (row.contains("validation_loss")) validation_loss = row["validation_loss"];
  }
  (*json)["steps_done"] = last_step;
  (*json)["images"] = last_step * run.config.options.train.global_batch;
  (*json)["train_seconds"] = seconds;
  (*json)["final_loss"] = loss;
  (*json)["validation_loss"] = validation_loss;
}

void AddEvaluations(const SweepStudy& sweep, const SweepRun& run, Json* json) {
  Json& all = (*json)["evaluations"] = Json::array();
  for (const int64_t step : run.evaluated) {
    const std::optional<Json> scores = FindScores(sweep, run, step);
    if (!scores.has_value()) continue;
    const std::string grid = sweep.EvaluationPath(run, step, ".png");
    Json evaluation{{"step", step}, {"images", step * run.config.options.train.global_batch}};
    evaluation["grid"] = KindOfPath(grid) == PathKind::kFile ? Json(Below(sweep, grid)) : Json();
    for (const auto& [key, value] : scores->items()) {
      if (!evaluation.contains(key)) evaluation[key] = value;
    }
    all.push_back(std::move(evaluation));
  }
}

// The record's word, corrected by what is there: files may have been made, or removed, by others.
TaskRecord StateOf(const SweepStudy& sweep, const SweepRun& run) {
  TaskRecord record = ReadTaskRecord(sweep.RunPath(run));
  const absl::StatusOr<bool> done = RunIsDone(sweep, run);
  if (!done.ok()) {
    record.state = TaskState::kFailed;
    record.message = std::string(done.status().message());
  } else if (*done) {
    record.state = TaskState::kFinished;
    record.message.clear();
  } else if (record.state == TaskState::kFinished) {
    record.state = TaskState::kInterrupted;
    record.message = "it was finished, but its results are not there";
  } else if (record.state == TaskState::kMissing && KindOfPath(sweep.RunPath(run)) == PathKind::kFolder) {
    const bool busy = IsFileLocked(JoinPath(sweep.RunPath(run), "lease"));
    record.state = busy ? TaskState::kRunning : TaskState::kInterrupted;
  }
  return record;
}

Json CollectRun(const SweepStudy& sweep, const SweepRun& run) {
  Json json = ModelJson(run);
  AddTraining(sweep, run, &json);
  const TaskRecord record = StateOf(sweep, run);
  json["state"] = std::string(Name(record.state));
  json["exit_code"] = record.attempts > 0 ? Json(record.last_exit_code) : Json();
  json["message"] = record.message;
  json["attempts"] = record.attempts;
  json["folder"] = Below(sweep, sweep.RunPath(run));
  AddEvaluations(sweep, run, &json);
  return json;
}

// A cell that a spreadsheet takes for text or a number, never for a formula.
std::string Cell(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string text = value.get<std::string>();
  if (!text.empty() && absl::StrContains("=+-@\t\r", text.substr(0, 1))) text.insert(0, "'");
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

std::vector<std::string> ScoreColumns() {
  std::vector<std::string> columns = {"evaluated_step", "n", "n_reference"};
  for (const char* score : kScores) {
    for (const char* ending : {"", "_low", "_high"}) columns.push_back(absl::StrCat(score, ending));
  }
  return columns;
}

std::vector<std::string> ScoreCells(const Json& evaluation) {
  std::vector<std::string> cells;
  for (const char* key : {"step", "n", "n_reference"}) cells.push_back(Cell(evaluation.value(key, Json())));
  for (const char* score : kScores) {
    const Json interval = evaluation.value(absl::StrCat(score, "_interval"), Json());
    const bool whole = interval.is_array() && interval.size() == 2;
    cells.push_back(Cell(evaluation.value(score, Json())));
    for (const size_t end : {0, 1}) cells.push_back(whole ? Cell(interval[end]) : "");
  }
  return cells;
}

std::string Csv(const Json& results) {
  const std::vector<std::string> keys = {"name",    "model",        "depth",         "width",      "heads",
                                         "patch",   "conditioning", "seed",          "parameters", "gmacs_forward",
                                         "steps",   "steps_done",   "images",        "state",      "exit_code",
                                         "message", "attempts",     "train_seconds", "final_loss", "validation_loss"};
  std::string text = absl::StrCat(absl::StrJoin(keys, ","), ",", absl::StrJoin(ScoreColumns(), ","), "\n");
  for (const Json& run : results["runs"]) {
    std::vector<std::string> cells;
    for (const std::string& key : keys) cells.push_back(Cell(run[key]));
    Json evaluations = run["evaluations"];
    if (evaluations.empty()) evaluations.push_back(Json::object());
    for (const Json& evaluation : evaluations) {
      absl::StrAppend(&text, absl::StrJoin(cells, ","), ",", absl::StrJoin(ScoreCells(evaluation), ","), "\n");
    }
  }
  return text;
}

std::string Number(const Json& value) { return value.is_number() ? absl::StrFormat("%.4g", value.get<double>()) : "-"; }

// Scores of which some run has one.
std::vector<std::string> ShownScores(const Json& results) {
  std::vector<std::string> shown;
  for (const char* score : kScores) {
    bool has = false;
    for (const Json& run : results["runs"]) {
      for (const Json& evaluation : run["evaluations"]) has = has || evaluation.contains(score);
    }
    if (has) shown.push_back(score);
  }
  return shown;
}

}  // namespace

absl::StatusOr<Json> CollectSweep(const std::string& study_folder) {
  const std::string path = JoinPath(study_folder, kSweepFile);
  if (KindOfPath(path) != PathKind::kFile) {
    return absl::NotFoundError(absl::StrCat(Quoted(path), " is not there: no sweep was begun in that folder"));
  }
  ASSIGN_OR_RETURN(SweepStudy sweep, LoadStoredSweep(path));
  sweep.folder = study_folder;  // it may have been moved
  Json json{{"kind", "sweep"}, {"name", sweep.name}, {"folder", study_folder}, {"budget", BudgetJson(sweep)}};
  Json runs = Json::array();
  for (const SweepRun& run : sweep.runs) runs.push_back(CollectRun(sweep, run));
  json["settings"] = SettingsJson(sweep, runs);
  json["runs"] = std::move(runs);
  return json;
}

absl::StatusOr<Json> WriteSweepResults(const std::string& study_folder) {
  ASSIGN_OR_RETURN(Json results, CollectSweep(study_folder));
  FileSystem& fs = PosixFileSystem();
  RETURN_IF_ERROR(AtomicWriteFile(fs, JoinPath(study_folder, "results.json"), JsonText(results) + "\n"));
  RETURN_IF_ERROR(AtomicWriteFile(fs, JoinPath(study_folder, "results.csv"), Csv(results)));
  return results;
}

std::string SweepTable(const Json& results) {
  const std::vector<std::string> scores = ShownScores(results);
  std::string text = absl::StrFormat("%-28s %-11s %11s %8s %9s %9s %9s", "run", "state", "parameters", "GMACs", "steps",
                                     "loss", "held-out");
  for (const std::string& score : scores) absl::StrAppendFormat(&text, " %9s", score.substr(0, 9));
  for (const Json& run : results["runs"]) {
    absl::StrAppendFormat(&text, "\n%-28s %-11s %11d %8.4g %9d %9s %9s", run["name"].get<std::string>(),
                          run["state"].get<std::string>(), run["parameters"].get<int64_t>(),
                          run["gmacs_forward"].get<double>(), run["steps_done"].get<int64_t>(),
                          Number(run["final_loss"]), Number(run["validation_loss"]));
    const Json last = run["evaluations"].empty() ? Json::object() : run["evaluations"].back();
    for (const std::string& score : scores) absl::StrAppendFormat(&text, " %9s", Number(last.value(score, Json())));
    const std::string message = run["message"];
    if (!message.empty()) absl::StrAppend(&text, "\n  ", message);
  }
  return text;
}

}  // namespace shardit
