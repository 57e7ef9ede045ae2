// What a sweep has come to, from its files alone.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/json/json.h"

namespace shardit {

// The document of OUT/results.json (docs/formats.md, Studies), collected anew: every run that OUT/sweep.textproto
// describes, whatever became of it. A missing or damaged file of a run costs that run the fields that stood in it,
// never the document, and `message` says so. Paths in it count from the study's folder. Writes nothing; the folder may
// have been moved or copied. NotFound where the folder holds no sweep.textproto; InvalidArgument where that file is
// damaged.
absl::StatusOr<Json> CollectSweep(const std::string& study_folder);

// Collects, and replaces OUT/results.json and OUT/results.csv (a row a run and scored step). Returns the document.
absl::StatusOr<Json> WriteSweepResults(const std::string& study_folder);

// For people: a row a run, with its last scores; what did not finish with its reason.
std::string SweepTable(const Json& results);

}  // namespace shardit
