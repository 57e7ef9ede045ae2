// What a scaling study has come to, from its files alone: what was predicted, what was measured, what is missing.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/json/json.h"
#include "launch/scaling/scaling_study.h"

namespace shardit {

// The study's own copy of its text, and what the planner said of a point.
inline constexpr char kScalingFile[] = "scaling.textproto";
inline constexpr char kPlanFile[] = "plan.json";

// The document of OUT/scaling.json (docs/formats.md, Studies), collected anew: every point that OUT/scaling.textproto
// describes, whatever became of it. Writes nothing; the folder may have been moved or copied. NotFound where the folder
// holds no scaling.textproto.
absl::StatusOr<Json> CollectScaling(const std::string& study_folder);

// A row a point: throughput, efficiency, exposed communication, bytes, beside the prediction.
std::string ScalingTable(const Json& scaling);

// Collects and writes OUT/scaling.json and OUT/scaling.csv.
absl::Status WriteScalingResults(const std::string& study_folder);

}  // namespace shardit
