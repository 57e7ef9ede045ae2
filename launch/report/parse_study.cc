#include "launch/report/parse_study.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr const char* kMetrics[] = {"fid", "fd", "sfid", "sfd", "is", "precision", "recall", "class_agreement"};

// What is equal in all evaluations of a sound study, here made visible should it not be: scores by another extractor,
// against another reference, from other numbers of samples or by another sampler are different quantities. Files are
// told apart by their hashes: paths change when a study is moved, and stay when a file is replaced.
std::string IdentityOf(const Json& document, const Evaluation& evaluation) {
  std::string identity = evaluation.score_name();
  const Json& extractor = Member(document, "extractor");
  const Json& reference = Member(document, "reference");
  const Json& samples = Member(document, "samples");
  for (const char* key : {"sha256", "resize"}) absl::StrAppend(&identity, "|", TextField(extractor, key));
  absl::StrAppend(&identity, "|", evaluation.n, "|", evaluation.n_reference);
  for (const char* key : {"kind", "sha256"}) absl::StrAppend(&identity, "|", TextField(reference, key));
  for (const char* key : {"sampler", "steps", "eta", "cfg_scale", "cfg_channels", "weights"}) {
    const Json& value = Member(samples, key);
    absl::StrAppend(&identity, "|", value.is_structured() ? "" : CleanText(JsonText(value)));
  }
  return identity;
}

Evaluation ParseEvaluation(const Json& document) {
  Evaluation evaluation{.step = CountField(document, "step"), .images = CountField(document, "images")};
  for (const char* key : kMetrics) {
    const std::optional<double> value = NumberField(document, key);
    if (!value.has_value()) continue;
    evaluation.metrics[key] = {*value, IntervalField(document, absl::StrCat(key, "_interval").c_str())};
  }
  evaluation.n = CountField(document, "n");
  evaluation.n_reference = CountField(document, "n_reference");
  evaluation.identity = IdentityOf(document, evaluation);
  return evaluation;
}

// "ADALN_ZERO" and "adaLN-Zero" are "adaln_zero".
std::string DesignKey(const std::string& conditioning) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(conditioning), {{"-", "_"}, {" ", "_"}});
}

struct EvaluationAndGrid {
  Evaluation evaluation;
  std::string grid;
};

std::vector<EvaluationAndGrid> ParseEvaluations(const Json& documents) {
  std::vector<EvaluationAndGrid> all;
  if (!documents.is_array()) return all;
  for (const Json& document : documents) {
    if (!document.is_object()) continue;
    const Json& grid = Member(document, "grid");
    // A path is used as it stands, and shown nowhere.
    all.push_back({ParseEvaluation(document), grid.is_string() ? grid.get<std::string>() : ""});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.evaluation.step < b.evaluation.step; });
  return all;
}

StudyRun ParseRun(const Json& document) {
  StudyRun run{.name = TextField(document, "name"),
               .model = TextField(document, "model"),
               .conditioning = DesignKey(TextField(document, "conditioning")),
               .depth = CountField(document, "depth"),
               .width = CountField(document, "width"),
               .heads = CountField(document, "heads"),
               .patch = CountField(document, "patch"),
               .seed = CountField(document, "seed"),
               .parameters = CountField(document, "parameters"),
               .gmacs_forward = NumberField(document, "gmacs_forward"),
               .steps = CountField(document, "steps"),
               .steps_done = CountField(document, "steps_done"),
               .images = CountField(document, "images"),
               .attempts = CountField(document, "attempts"),
               .state = TextField(document, "state"),
               .exit_code = IntegerField(document, "exit_code"),
               .message = TextField(document, "message"),
               .train_seconds = NumberField(document, "train_seconds"),
               .final_loss = NumberField(document, "final_loss"),
               .validation_loss = NumberField(document, "validation_loss")};
  if (const Json& folder = Member(document, "folder"); folder.is_string()) run.folder = folder.get<std::string>();
  if (run.name.empty()) run.name = "(no name)";
  if (run.model.empty()) run.model = run.width > 0 ? absl::StrCat("width ", run.width) : "(no model)";
  if (run.state.empty()) run.state = "unknown";
  if (run.gmacs_forward.has_value() && *run.gmacs_forward <= 0) run.gmacs_forward.reset();
  return run;
}

// The bytes of a step on all axes.
std::optional<double> TotalBytes(const Json& object) {
  const Json& axes = Member(object, "bytes_sent");
  if (!axes.is_object()) return std::nullopt;
  double total = 0;
  for (const char* axis : {"dp", "tp", "pp"}) total += NumberField(axes, axis).value_or(0);
  return total;
}

ScalingPoint ParsePoint(const Json& document) {
  const Json& planned = Member(document, "planned");
  const Json& sequence_parallel = Member(document, "sequence_parallel");
  ScalingPoint point{.name = TextField(document, "name"),
                     .mode = TextField(document, "mode"),
                     .series = TextField(document, "series"),
                     .world = CountField(document, "world"),
                     .dp = CountField(document, "dp"),
                     .tp = CountField(document, "tp"),
                     .pp = CountField(document, "pp"),
                     .zero_stage = CountField(document, "zero_stage"),
                     .global_batch = CountField(document, "global_batch"),
                     .attempts = CountField(document, "attempts"),
                     .sequence_parallel = sequence_parallel.is_boolean() && sequence_parallel.get<bool>(),
                     .schedule = TextField(document, "schedule"),
                     .state = TextField(document, "state"),
                     .message = TextField(document, "message"),
                     .images_per_s = NumberField(document, "images_per_s"),
                     .efficiency = NumberField(document, "efficiency"),
                     .speedup = NumberField(document, "speedup"),
                     .exposed_comm_ms = NumberField(document, "exposed_comm_ms"),
                     .peak_bytes = NumberField(document, "peak_bytes"),
                     .bytes_sent = TotalBytes(document),
                     .planned_step_ms = NumberField(planned, "step_ms"),
                     .planned_images_per_s = NumberField(planned, "images_per_s"),
                     .planned_bytes_sent = TotalBytes(planned),
                     .planned_peak_bytes = NumberField(planned, "peak_bytes")};
  if (const auto step_ms = NumberField(document, "step_ms")) {
    point.step_ms = Measured{*step_ms, IntervalField(document, "step_ms_interval")};
  }
  if (point.state.empty()) point.state = "unknown";
  return point;
}

}  // namespace

Sweep ParseSweep(const Json& document, std::vector<std::vector<std::string>>* grids) {
  Sweep sweep{.name = TextField(document, "name"), .settings = Flatten(Member(document, "settings"))};
  for (const auto& [key, value] : Flatten(Member(document, "budget"))) {
    sweep.settings.emplace_back(absl::StrCat("budget.", key), value);
  }
  const Json& runs = Member(document, "runs");
  if (!runs.is_array()) return sweep;
  for (const Json& item : runs) {
    if (!item.is_object()) continue;
    StudyRun run = ParseRun(item);
    grids->emplace_back();
    for (EvaluationAndGrid& each : ParseEvaluations(Member(item, "evaluations"))) {
      run.evaluations.push_back(std::move(each.evaluation));
      grids->back().push_back(std::move(each.grid));
    }
    sweep.runs.push_back(std::move(run));
  }
  return sweep;
}

Scaling ParseScaling(const Json& document) {
  Scaling scaling{.name = TextField(document, "name"), .settings = Flatten(Member(document, "settings"))};
  const Json& points = Member(document, "points");
  if (!points.is_array()) return scaling;
  for (const Json& item : points) {
    if (item.is_object()) scaling.points.push_back(ParsePoint(item));
  }
  std::stable_sort(scaling.points.begin(), scaling.points.end(), [](const auto& a, const auto& b) {
    return std::tie(b.mode, a.world) < std::tie(a.mode, b.world);  // weak before strong, then by ranks
  });
  return scaling;
}

LossCurve ParseLossCurve(const std::string& jsonl) {
  LossCurve curve;
  for (const absl::string_view line : absl::StrSplit(jsonl, '\n', absl::SkipEmpty())) {
    const Json row = ParseJson(line);
    const auto images = NumberField(row, "images"), loss = NumberField(row, "loss");
    if (!images.has_value() || !loss.has_value()) continue;
    curve.images.push_back(*images);
    curve.loss.push_back(*loss);
  }
  return curve;
}

}  // namespace shardit
