// What a study reads in run folders that may be half written, damaged or gone: everything that can be read, nothing
// that cannot.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shardit {

// The rows of metrics.jsonl in order of their steps; damaged lines, and what follows the first 256 MiB, are left out.
std::vector<nlohmann::ordered_json> ReadMetrics(const std::string& run_folder);

// A document from elsewhere: what is nested deeper than 32 levels is left out. Discarded where it is no JSON.
nlohmann::ordered_json ParseJson(absl::string_view text);

// A JSON document of at most 64 MiB; nullopt where it is not there or is none.
std::optional<nlohmann::ordered_json> ReadJson(const std::string& path);

// The number `object[key]`; `otherwise` where there is none.
double NumberOr(const nlohmann::ordered_json& object, const char* key, double otherwise);
int64_t IntegerOr(const nlohmann::ordered_json& object, const char* key, int64_t otherwise);
// Empty where it is anything but an object.
nlohmann::ordered_json ObjectOr(const nlohmann::ordered_json& object, const char* key);

}  // namespace shardit
