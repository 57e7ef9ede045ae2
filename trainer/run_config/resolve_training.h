// The part of a configuration that depends on the number of ranks: mesh, batch, pipeline and deterministic mode.
// Private to trainer/run_config.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "configs/run_config.pb.h"

namespace shardit {

// Fills in what is 0 for "choose" (parallel.dp, train.micro_batch) and checks what must fit together. Every field is
// set. InvalidArgument with field, expectation, value and remedy.
absl::Status ResolveForTraining(int64_t world, config::RunConfig* c);

}  // namespace shardit
