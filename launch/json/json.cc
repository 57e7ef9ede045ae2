#include "launch/json/json.h"

#include <cmath>

#include "core/base/file.h"

namespace shardit {
namespace {

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxDocumentBytes = int64_t{64} << 20;

}  // namespace

std::string JsonText(const Json& document) { return document.dump(2, ' ', false, Json::error_handler_t::replace); }

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

const Json& Member(const Json& object, const char* key) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

std::optional<double> NumberField(const Json& object, const char* key) {
  const Json& value = Member(object, key);
  if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
  return value.get<double>();
}

std::optional<int64_t> IntegerField(const Json& object, const char* key) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  const std::optional<double> value = NumberField(object, key);
  if (!value.has_value() || std::abs(*value) > kExact || *value != std::floor(*value)) return std::nullopt;
  return static_cast<int64_t>(*value);
}

}  // namespace shardit
