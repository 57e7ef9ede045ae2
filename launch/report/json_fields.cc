#include "launch/report/json_fields.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/report/text.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMaxDocumentBytes = int64_t{64} << 20;
constexpr int kMaxDepth = 8;  // of settings: what lies deeper is not shown

std::string ScalarText(const Json& value) {
  if (value.is_string()) return CleanText(value.get_ref<const std::string&>());
  if (value.is_number_float()) return RoundTrip(value.get<double>());
  return value.dump();
}

void FlattenInto(const Json& value, const std::string& path, int depth,
                 std::vector<std::pair<std::string, std::string>>* out) {
  if (!value.is_structured()) {
    out->emplace_back(path, ScalarText(value));
  } else if (depth == kMaxDepth) {
    out->emplace_back(path, "...");
  } else if (value.is_array()) {
    std::string list;
    for (const Json& item : value)
      absl::StrAppend(&list, list.empty() ? "" : ", ", item.is_structured() ? "..." : ScalarText(item));
    out->emplace_back(path, CleanText(list));
  } else {
    for (const auto& [key, item] : value.items()) {
      FlattenInto(item, path.empty() ? CleanText(key) : absl::StrCat(path, ".", CleanText(key)), depth + 1, out);
    }
  }
}

}  // namespace

absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxDocumentBytes));
  Json document = ParseJson(text);
  if (document.is_object()) return document;
  return WithExitCode(absl::InvalidArgumentError(
                          absl::StrCat(Quoted(path), ": expected one JSON object, got ",
                                       document.is_discarded() ? "something that is not JSON" : document.type_name(),
                                       "; it is rewritten by the command that ran the study")),
                      ExitCode::kBadData);
}

int64_t CountField(const Json& object, const char* key) {
  return std::max<int64_t>(0, IntegerField(object, key).value_or(0));
}

std::string TextField(const Json& object, const char* key) {
  const Json& value = Member(object, key);
  return value.is_string() ? CleanText(value.get_ref<const std::string&>()) : "";
}

std::optional<Interval> IntervalField(const Json& object, const char* key) {
  const Json& value = Member(object, key);
  if (!value.is_array() || value.size() != 2 || !value[0].is_number() || !value[1].is_number()) return std::nullopt;
  const Interval interval{value[0].get<double>(), value[1].get<double>()};
  if (!std::isfinite(interval.low) || !std::isfinite(interval.high) || interval.low > interval.high)
    return std::nullopt;
  return interval;
}

std::vector<std::pair<std::string, std::string>> Flatten(const Json& object) {
  std::vector<std::pair<std::string, std::string>> fields;
  if (object.is_object()) FlattenInto(object, "", 0, &fields);
  return fields;
}

}  // namespace shardit
