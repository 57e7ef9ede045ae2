// Runs a scaling study: its points as tasks, here or under Slurm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/json/json.h"
#include "launch/scaling/scaling_study.h"
#include "launch/study/task.h"

namespace shardit {

// What the planner says of every point: a table for people, and an array of plans (as `shardit plan --json` prints
// them, with the point's name). With `keep`, also as plan.json in every point's folder, for the results to stand
// beside.
struct ScalingPrediction {
  std::string text;
  Json plans;
};
absl::StatusOr<ScalingPrediction> PredictPoints(const ScalingStudy& study, bool keep);

// Writes what the points need: the study's own text and a configuration in each folder.
absl::Status WriteStudy(const ScalingStudy& study);

// A task a point, with that index: the timed run, and then the removal of its checkpoints, which nobody wants.
absl::StatusOr<std::vector<Task>> ScalingTasks(const ScalingStudy& study);

// One point after another on this machine: two at a time would measure each other.
absl::Status RunScalingHere(const ScalingStudy& study);

// One point, in a job of its own. Aborted (exit code 75): to be run again.
absl::Status RunScalingTask(const ScalingStudy& study, int64_t index);

// One Slurm array for each number of nodes, and a job that sums up after all. Returns lines that say what was
// submitted.
absl::StatusOr<std::string> SubmitScaling(const ScalingStudy& study);

}  // namespace shardit
