#include "data/formats/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

constexpr absl::string_view kMetadataKey = "__metadata__";

struct TypeRow {
  SafetensorsType type;
  absl::string_view name;
  int64_t bytes;
};
constexpr std::array<TypeRow, 8> kTypes = {{{SafetensorsType::kF64, "F64", 8},
                                            {SafetensorsType::kF32, "F32", 4},
                                            {SafetensorsType::kF16, "F16", 2},
                                            {SafetensorsType::kBF16, "BF16", 2},
                                            {SafetensorsType::kI64, "I64", 8},
                                            {SafetensorsType::kI32, "I32", 4},
                                            {SafetensorsType::kU8, "U8", 1},
                                            {SafetensorsType::kBool, "BOOL", 1}}};

const TypeRow& RowOf(SafetensorsType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.type == type; });
}

// Event handler for nlohmann's parser, which keeps no stack of ours: nesting deeper than {tensor: {field: [..]}} is
// refused at the opening bracket, so hostile depth costs nothing.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;
  std::string error;

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a number that is not an integer"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::kShape && at_ != At::kOffsets) return Unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Unexpected("a number above 2^63");
    std::vector<int64_t>& list = at_ == At::kShape ? header.entries.back().shape : offsets_;
    const size_t limit = at_ == At::kShape ? kMaxSafetensorsRank : 2;
    if (list.size() == limit) return Unexpected(absl::StrCat("more than ", limit, " numbers"));
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (at_ == At::kMetadata) {
      header.metadata.emplace(key_, value);
      return true;
    }
    if (at_ != At::kTensor || key_ != "dtype") return Unexpected("a string");
    for (const TypeRow& row : kTypes) {
      if (row.name != value) continue;
      header.entries.back().type = row.type;
      return true;
    }
    return Unexpected(absl::StrCat("dtype '", absl::CHexEscape(value), "', which is not supported"));
  }

  bool start_object(std::size_t) override {
    if (at_ == At::kStart) {
      at_ = At::kHeader;
      return true;
    }
    if (at_ != At::kHeader) return Unexpected("an object");
    if (key_ == kMetadataKey) {
      at_ = At::kMetadata;
      return true;
    }
    at_ = At::kTensor;
    fields_.clear();
    offsets_.clear();
    header.entries.emplace_back().name = key_;
    return true;
  }

  bool key(string_t& value) override {
    bool is_new = true;
    if (at_ == At::kHeader) {
      if (value == kMetadataKey) is_new = !std::exchange(saw_metadata_, true);
      tensor_ = value;  // equal tensor names are found after sorting
    } else if (at_ == At::kMetadata) {
      is_new = header.metadata.count(value) == 0;
    } else {
      if (value != "dtype" && value != "shape" && value != "data_offsets") {
        return Unexpected(absl::StrCat("field '", absl::CHexEscape(value), "'"));
      }
      is_new = fields_.insert(value).second;
    }
    if (!is_new) return Unexpected(absl::StrCat("key '", absl::CHexEscape(value), "' a second time"));
    key_ = value;
    return true;
  }

  bool end_object() override {
    if (at_ == At::kHeader) {
      at_ = At::kDone;
      return true;
    }
    const bool was_tensor = at_ == At::kTensor;
    at_ = At::kHeader;
    return !was_tensor || CheckTensor();
  }

  bool start_array(std::size_t) override {
    if (at_ != At::kTensor || key_ == "dtype") return Unexpected("an array");
    at_ = key_ == "shape" ? At::kShape : At::kOffsets;
    return true;
  }

  bool end_array() override {
    at_ = At::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (error.empty()) error = absl::StrCat("header is not valid JSON at byte ", 8 + position);
    return false;
  }

 private:
  enum class At { kStart, kHeader, kMetadata, kTensor, kShape, kOffsets, kDone };

  bool Unexpected(absl::string_view what) {
    error = absl::StrCat("header has ", what);
    if (at_ != At::kStart) absl::StrAppend(&error, " in entry '", absl::CHexEscape(tensor_), "'");
    absl::StrAppend(&error, "; expected {\"name\": {\"dtype\", \"shape\", \"data_offsets\"}}");
    return false;
  }

  bool CheckTensor() {
    SafetensorsEntry& entry = header.entries.back();
    if (fields_.size() != 3 || offsets_.size() != 2) return Unexpected("a missing field");
    entry.begin = offsets_[0];
    entry.bytes = CheckedTensorBytes(entry.type, entry.shape);
    if (entry.bytes >= 0 && offsets_[1] >= offsets_[0] && offsets_[1] - offsets_[0] == entry.bytes) return true;
    error = absl::StrCat("tensor '", absl::CHexEscape(entry.name), "': data_offsets [", offsets_[0], ", ", offsets_[1],
                         ") do not have the size of shape [", absl::StrJoin(entry.shape, ","), "] of ",
                         TypeName(entry.type));
    return false;
  }

  At at_ = At::kStart;
  std::string key_, tensor_;
  std::set<std::string> fields_;
  std::vector<int64_t> offsets_;
  bool saw_metadata_ = false;
};

absl::Status CheckNamesDiffer(const std::vector<SafetensorsEntry>& entries) {
  std::vector<absl::string_view> names;
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twin = std::adjacent_find(names.begin(), names.end());
  if (twin == names.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor '", absl::CHexEscape(*twin), "' appears twice"));
}

absl::Status CheckContiguous(const std::vector<SafetensorsEntry>& entries, int64_t data_bytes) {
  int64_t cursor = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != cursor) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", absl::CHexEscape(entry.name), "' begins at ",
                                                     entry.begin, ", expected ", cursor,
                                                     ": offsets must have no hole and no overlap"));
    }
    cursor += entry.bytes;  // cannot wrap: begin + bytes is a data_offset
  }
  if (cursor == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensors end at byte ", cursor, " of the data, but the file has ",
                                                 data_bytes, " bytes of data; it is truncated or has a tail"));
}

absl::StatusOr<std::string> JsonString(absl::string_view text) {
  using Json = nlohmann::json;
  const std::string copy(text);
  // The two lenient modes differ exactly where the text is not UTF-8 (the strict mode would throw).
  const std::string escaped = Json(copy).dump(-1, ' ', false, Json::error_handler_t::ignore);
  if (escaped == Json(copy).dump(-1, ' ', false, Json::error_handler_t::replace)) return escaped;
  return absl::InvalidArgumentError(absl::StrCat("'", absl::CHexEscape(text), "' is not UTF-8"));
}

absl::Status AppendTensor(const SafetensorsSpec& spec, int64_t* cursor, std::string* json) {
  ASSIGN_OR_RETURN(const std::string name, JsonString(spec.name));
  const int64_t bytes = CheckedTensorBytes(spec.type, spec.shape);
  const auto end = bytes < 0 ? std::nullopt : CheckedAdd(*cursor, bytes);
  if (!end || spec.name == kMetadataKey || spec.shape.size() > kMaxSafetensorsRank) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " of shape [", absl::StrJoin(spec.shape, ","),
                                                   "] cannot be stored in a safetensors file"));
  }
  absl::StrAppend(json, json->size() > 1 ? "," : "", name, ":{\"dtype\":\"", TypeName(spec.type), "\",\"shape\":[",
                  absl::StrJoin(spec.shape, ","), "],\"data_offsets\":[", *cursor, ",", *end, "]}");
  *cursor = *end;
  return absl::OkStatus();
}

}  // namespace

int64_t ItemBytes(SafetensorsType type) { return RowOf(type).bytes; }
absl::string_view TypeName(SafetensorsType type) { return RowOf(type).name; }

int64_t CheckedTensorBytes(SafetensorsType type, const std::vector<int64_t>& shape) {
  int64_t bytes = ItemBytes(type);
  for (const int64_t dim : shape) {
    const auto product = dim < 0 ? std::nullopt : CheckedMul(bytes, dim);
    if (!product) return -1;
    bytes = *product;
  }
  return bytes;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes) {
  // nlohmann's lexer takes a NUL byte for the end of the text and would not look at what follows.
  if (json.find('\0') != absl::string_view::npos) return absl::InvalidArgumentError("header holds a NUL byte");
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return absl::InvalidArgumentError(handler.error.empty() ? "header is not valid JSON" : handler.error);
  }
  std::vector<SafetensorsEntry>& entries = handler.header.entries;
  RETURN_IF_ERROR(CheckNamesDiffer(entries));
  // Empty tensors share their begin with the next one: by size they come first.
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  RETURN_IF_ERROR(CheckContiguous(entries, data_bytes));
  return std::move(handler.header);
}

absl::StatusOr<std::string> FormatSafetensorsHeader(const std::vector<SafetensorsSpec>& tensors,
                                                    const std::map<std::string, std::string>& metadata) {
  std::set<std::string> names;
  std::string json = "{";
  if (!metadata.empty()) {
    std::string pairs;
    for (const auto& [key, value] : metadata) {
      ASSIGN_OR_RETURN(const std::string json_key, JsonString(key));
      ASSIGN_OR_RETURN(const std::string json_value, JsonString(value));
      absl::StrAppend(&pairs, pairs.empty() ? "" : ",", json_key, ":", json_value);
    }
    absl::StrAppend(&json, "\"", kMetadataKey, "\":{", pairs, "}");
  }
  int64_t cursor = 0;
  for (const SafetensorsSpec& spec : tensors) {
    RETURN_IF_ERROR(AppendTensor(spec, &cursor, &json));
    if (!names.insert(spec.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", absl::CHexEscape(spec.name), "' is given twice"));
    }
  }
  json += "}";
  json.resize(static_cast<size_t>(RoundUp(static_cast<int64_t>(json.size()), 8)), ' ');
  if (static_cast<int64_t>(json.size()) > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("header of ", json.size(), " bytes exceeds 100 MB"));
  }
  const uint64_t length = json.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header + json;
}

}  // namespace shardit
