// Held-out loss: the training loss of the EMA weights on a validation set, with timesteps and noise drawn once per
// sample (keyed by the sample's index), so that two measurements differ by the weights alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "data/dataset.h"
#include "model/diffusion.h"
#include "model/diffusion_loss.h"
#include "model/dit.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct ValidationOptions {
  uint64_t seed = 0;
  int64_t samples = 0;  // the first so many of the set; 0: all
  int64_t batch = 1;    // samples a forward pass
};

// Collective over `ranks`, which share out the samples; every rank gets the same means. The same on any number of ranks
// up to the order of the sum.
absl::StatusOr<LossResult> HeldOutLoss(RankContext& context, const Dit& model, const Diffusion& diffusion,
                                       const Dataset& dataset, Communicator& ranks, const ValidationOptions& options);

}  // namespace shardit
