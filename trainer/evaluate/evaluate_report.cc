#include "trainer/evaluate/evaluate_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"

namespace shardit {
namespace {

struct Row {
  const char* key;
  const std::optional<Score>& score;
};

// In the order in which they are printed. The Frechet distance is called FID only where it is that.
std::vector<Row> Rows(const EvaluateReport& report) {
  const bool fid = report.has_extractor && report.extractor.is_fid;
  return {{fid ? "fid" : "fd", report.frechet},
          {fid ? "sfid" : "sfd", report.spatial_frechet},
          {"is", report.inception_score},
          {"precision", report.precision},
          {"recall", report.recall},
          {"class_agreement", report.class_agreement}};
}

nlohmann::ordered_json ExtractorJson(const EvaluateReport& report) {
  if (!report.has_extractor) return nullptr;
  const ExtractorInfo& info = report.extractor;
  nlohmann::ordered_json json;
  json["path"] = report.extractor_path;
  json["architecture"] = info.architecture;
  json["sha256"] = info.weights_sha256;
  json["source_sha256"] = info.source_sha256;
  json["resize"] = info.resize;
  json["feature_dim"] = info.feature_dim;
  json["spatial_dim"] = info.spatial_dim;
  json["classes"] = info.classes;
  return json;
}

nlohmann::ordered_json CountJson(const std::optional<int64_t>& count) {
  return count.has_value() ? nlohmann::ordered_json(*count) : nlohmann::ordered_json(nullptr);
}

std::string CountText(const std::optional<int64_t>& count) {
  return count.has_value() ? absl::StrCat(*count) : "an unknown number of";
}

std::string SideText(const char* name, const nlohmann::ordered_json& side, const std::optional<int64_t>& count) {
  if (side.is_null()) return "";
  return absl::StrFormat("%-10s %s images, %s\n", name, CountText(count), Quoted(side.value("path", "")));
}

}  // namespace

nlohmann::ordered_json ReportJson(const EvaluateReport& report, const std::string& version) {
  nlohmann::ordered_json json;
  for (const auto& [key, score] : Rows(report)) {
    if (!score.has_value()) continue;
    json[key] = score->value;
    if (score->has_interval()) json[absl::StrCat(key, "_interval")] = {score->low, score->high};
    if (&score == &report.inception_score) json["is_std"] = report.inception_score_std;
  }
  if (report.reference_accuracy.has_value()) json["reference_accuracy"] = *report.reference_accuracy;
  json["n"] = CountJson(report.n);
  json["n_reference"] = CountJson(report.n_reference);
  json["bootstrap"] = report.replicates;
  json["k"] = report.neighbours;
  json["is_split"] = report.split;
  json["extractor"] = ExtractorJson(report);
  json["samples"] = report.samples;
  json["reference"] = report.reference;
  json["version"] = version;
  json["seconds"] = report.seconds;
  return json;
}

std::string ReportText(const EvaluateReport& report) {
  std::string text;
  if (report.has_extractor) {
    const ExtractorInfo& info = report.extractor;
    absl::StrAppendFormat(&text, "extractor  %s, sha256 %s, resize %s\n", info.architecture,
                          info.weights_sha256.substr(0, 16), info.resize);
  } else {
    text += "extractor  unknown: the scores compare two statistics files\n";
  }
  text += SideText("samples", report.samples, report.n);
  text += SideText("reference", report.reference, report.n_reference);
  for (const auto& [key, score] : Rows(report)) {
    if (!score.has_value()) continue;
    absl::StrAppendFormat(&text, "%-16s %12.6g", key, score->value);
    if (score->has_interval()) absl::StrAppendFormat(&text, "   95%% %.6g .. %.6g", score->low, score->high);
    if (&score == &report.inception_score) absl::StrAppendFormat(&text, "   std %.4g", report.inception_score_std);
    text += "\n";
  }
  if (report.reference_accuracy.has_value()) {
    absl::StrAppendFormat(&text, "the classifier is right on %.4g of the reference\n", *report.reference_accuracy);
  }
  text.pop_back();
  return text;
}

}  // namespace shardit
