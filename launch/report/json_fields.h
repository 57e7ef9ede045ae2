// What the report reads in JSON documents, beyond launch/json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/json/json.h"
#include "launch/report/statistics.h"

namespace shardit {

// A JSON file with an object in it; InvalidArgument (exit code 65) names the file and what is wrong.
absl::StatusOr<Json> ReadJsonObject(const std::string& path);

int64_t CountField(const Json& object, const char* key);     // 0 where absent
std::string TextField(const Json& object, const char* key);  // clean; empty where absent
// An array of two numbers in order.
std::optional<Interval> IntervalField(const Json& object, const char* key);

// Every scalar below `object` with its path, "extractor.sha256", as clean text, in the document's order.
std::vector<std::pair<std::string, std::string>> Flatten(const Json& object);

}  // namespace shardit
