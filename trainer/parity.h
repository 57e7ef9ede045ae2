// Parity: one forward and backward on given tensors, for comparison with other implementations.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "core/tensor/rank_context.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// Reads `x`, `noise` [N,C,H,W] float and `t`, `y` [N] integer from `inputs`, the model's parameters from `weights`, and
// writes `output`, `loss`, `mse`, `vb` and `grad.<parameter name>` to `outputs` (all safetensors, F32). No label is
// dropped and nothing is flipped; the null class is allowed in `y`.
absl::Status RunParity(RankContext& context, const RunOptions& options, const std::string& weights,
                       const std::string& inputs, const std::string& outputs);

}  // namespace shardit
