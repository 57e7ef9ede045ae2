// What is there of a sweep's run, judged by its files: nothing is believed that a file does not show, so a run that was
// trained by hand counts as much as one that the sweep trained.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/json/json.h"
#include "launch/study/sweep.h"

namespace shardit {

// Whether the run's last step is there: a committed checkpoint of it that opens, trained with the run's configuration.
// With `to_the_last_byte` its content is verified too. InvalidArgument (exit code 64) where the run folder holds
// another run, with the differences: in what a resume must keep, in what changes the numbers, or in the number of steps
// where the learning rate falls towards the last of them.
absl::StatusOr<bool> TrainingIsDone(const SweepStudy& sweep, const SweepRun& run, bool to_the_last_byte);

// The newest committed step; 0 where there is none.
int64_t NewestStep(const SweepStudy& sweep, const SweepRun& run);

// The scores of a step, as `evaluate` wrote them, if they are those of this sweep: same samples and sampling, same
// reference and extractor to the bit, and drawn from the checkpoint that is there. A file that is gone is not compared
// (of the reference its path still is). Large files are hashed once a process. Thread-safe.
std::optional<Json> FindScores(const SweepStudy& sweep, const SweepRun& run, int64_t step);

// Trained and scored at every step. The errors of TrainingIsDone.
absl::StatusOr<bool> RunIsDone(const SweepStudy& sweep, const SweepRun& run);

}  // namespace shardit
