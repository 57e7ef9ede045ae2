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
#include "parallel/comm/communicator.h"
#include "trainer/train/sharded_forward.h"

namespace shardit {

struct ValidationOptions {
  uint64_t seed = 0;
  int64_t samples = 0;  // the first so many of the set; 0: all
  int64_t batch = 1;    // samples a forward pass
};

// Collective over the world: the data ranks share out the samples, and every rank gets the same means, with the same
// bits for every number of data ranks. Where some cannot read their samples, all get the error, to leave with kIo;
// these ranks have taken part in every pass by then, with images of zeros.
absl::StatusOr<LossResult> HeldOutLoss(RankContext& context, ShardedForward& model, const Diffusion& diffusion,
                                       const Dataset& dataset, const Sharding& sharding, Communicator& world,
                                       const ValidationOptions& options);

}  // namespace shardit
