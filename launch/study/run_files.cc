#include "launch/study/run_files.h"

#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "launch/json/json.h"

namespace shardit {
namespace {

constexpr int64_t kMaxMetricsBytes = int64_t{256} << 20;

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

}  // namespace shardit
