// Which layouts training takes: what the model, the mesh, the batch and deterministic mode ask of each other. One
// answer for configurations, for the layouts that a search visits (trainer/plan/layout_search.h) and for the settings
// that a run without memory is advised to take.
#pragma once

#include "absl/status/status.h"
#include "model/dit_config.h"
#include "trainer/run_config/options.h"

namespace shardit {

// parallel.dp and train.micro_batch are chosen: not 0. InvalidArgument with field, expectation, value and remedy.
absl::Status CheckLayout(const DitConfig& model, const ParallelOptions& parallel, const TrainOptions& train);

}  // namespace shardit
