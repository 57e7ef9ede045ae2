// JSON documents as commands write and read them. Those that are read may be anyone's, half written or damaged: a field
// of the wrong type counts as not there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shardit {

using Json = nlohmann::ordered_json;

// Indented. Paths in it are bytes that nobody promised to be UTF-8: what is none becomes U+FFFD.
std::string JsonText(const Json& document);

// What is nested deeper than 32 levels is left out. Discarded where the text is no JSON.
Json ParseJson(absl::string_view text);

// A document of at most 64 MiB; nullopt where it is not there or is none.
std::optional<Json> ReadJson(const std::string& path);

// The member of an object; null where `object` is none or lacks it.
const Json& Member(const Json& object, const char* key);

std::optional<double> NumberField(const Json& object, const char* key);  // finite
std::optional<int64_t> IntegerField(const Json& object, const char* key);

}  // namespace shardit
