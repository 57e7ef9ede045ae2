#include "launch/study/run_files.h"

#include "absl/strings/str_split.h"
#include "core/base/file.h"

namespace shardit {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxMetricsBytes = int64_t{256} << 20;
constexpr int64_t kMaxDocumentBytes = int64_t{64} << 20;

// The first bytes of a file that may be larger.
std::string ReadBeginning(const std::string& path, int64_t max_bytes) {
  const absl::StatusOr<RandomAccessFile> file = RandomAccessFile::Open(path);
  if (!file.ok()) return "";
  std::string text(static_cast<size_t>(std::min(file->size(), max_bytes)), '\0');
  return file->ReadAt(0, text.data(), static_cast<int64_t>(text.size())).ok() ? text : "";
}

}  // namespace

std::vector<Json> ReadMetrics(const std::string& run_folder) {
  std::vector<Json> rows;
  const std::string text = ReadBeginning(JoinPath(run_folder, "metrics.jsonl"), kMaxMetricsBytes);
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    Json row = ParseJson(line);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) continue;
    if (!rows.empty() && row["step"] <= rows.back()["step"]) continue;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json ParseJson(absl::string_view text) {
  // Copying, printing and freeing a document recurse.
  const auto shallow = [](int depth, Json::parse_event_t, Json&) { return depth <= kMaxDepth; };
  return Json::parse(text.begin(), text.end(), shallow, /*allow_exceptions=*/false);
}

std::optional<Json> ReadJson(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxDocumentBytes);
  if (!text.ok()) return std::nullopt;
  Json document = ParseJson(*text);
  if (document.is_discarded()) return std::nullopt;
  return document;
}

double NumberOr(const Json& object, const char* key, double otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}

int64_t IntegerOr(const Json& object, const char* key, int64_t otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<int64_t>() : otherwise;
}

Json ObjectOr(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_object() ? *found : Json::object();
}

}  // namespace shardit
