// What a sweep costs before it runs, by the planner (trainer/plan), and how much of it is there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/json/json.h"
#include "launch/study/sweep.h"

namespace shardit {

struct RunCost {
  std::string name;
  int64_t parameters = 0;  // the position table included
  double gmacs_forward = 0;
  int64_t steps = 0, images = 0;
  double train_eflop = 0;      // 6 operations per multiply-accumulate and image
  int64_t bytes_per_rank = 0;  // at its peak, of the fullest rank
  bool fits = true;            // in the memory of its device
  double train_hours = 0, sampling_hours = 0;
  // "done", "trained", "step 400", "-", or what stands in its way. Of a run that is begun, `left` is the part to do.
  std::string there;
  double left = 1;
};

struct SweepCost {
  std::string machine;
  int64_t nodes = 1;  // that a run fills
  std::vector<RunCost> runs;

  double Hours() const;      // of all runs, one after another
  double HoursLeft() const;  // of what is not there
};

// Sampling is taken at a third of a training step an image and sampling step, twice that with guidance; what extractors
// cost is left out. InvalidArgument (exit code 64) where the cluster's description is wrong or too small.
absl::StatusOr<SweepCost> CostOfSweep(const SweepStudy& sweep);

std::string CostText(const SweepStudy& sweep, const SweepCost& cost);
Json CostJson(const SweepStudy& sweep, const SweepCost& cost);

}  // namespace shardit
