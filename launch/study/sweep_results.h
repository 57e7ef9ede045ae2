// What a sweep has come to, from its files alone.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shardit {

// The document of OUT/results.json (docs/formats.md, Studies), collected anew: every run that OUT/sweep.textproto
// describes, whatever became of it. A missing or damaged file of a run costs that run the fields that stood in it,
// never the document, and `message` says so. Writes nothing; the folder may have been moved or copied. NotFound where
// the folder holds no sweep.textproto; InvalidArgument where that file is damaged.
absl::StatusOr<nlohmann::ordered_json> CollectSweep(const std::string& study_folder);

}  // namespace shardit
