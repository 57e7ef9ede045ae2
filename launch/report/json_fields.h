// Fields of JSON documents that anyone may have written: of the wrong type counts as not there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/report/statistics.h"
#include "nlohmann/json.hpp"

namespace shardit {

using Json = nlohmann::ordered_json;

// A JSON file with an object in it; InvalidArgument (exit code 65) names the file and what is wrong.
absl::StatusOr<Json> ReadJsonObject(const std::string& path);

// The member of an object; null where `object` is none or lacks it.
const Json& Member(const Json& object, const char* key);

std::optional<double> NumberField(const Json& object, const char* key);  // finite
std::optional<int64_t> IntegerField(const Json& object, const char* key);
int64_t CountField(const Json& object, const char* key);     // 0 where absent
std::string TextField(const Json& object, const char* key);  // clean; empty where absent
// An array of two numbers in order.
std::optional<Interval> IntervalField(const Json& object, const char* key);

// Indented text of a document of ours. Paths in it are bytes that nobody promised to be UTF-8: what is none becomes
// U+FFFD.
std::string JsonText(const Json& document);

// Every scalar below `object` with its path, "extractor.sha256", as clean text, in the document's order.
std::vector<std::pair<std::string, std::string>> Flatten(const Json& object);

}  // namespace shardit
