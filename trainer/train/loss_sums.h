// Sums of per-image losses over whatever ranks saw the images, with the same bits for every way of sharing them out.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/exact_sum.h"
#include "model/diffusion_loss.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct LossSums {
  ExactSum loss, mse, vb;
};

void AddImages(std::span<const ImageLoss> images, LossSums& sums);

// Adds up `sum` over the ranks of `comm`, in place: integers, so any order gives the same bits. A control message.
Work AllReduceLimbs(Communicator& comm, ExactSum& sum);

// Collective: the sums over all ranks of `comm`, divided by `images`.
LossResult AllReduceMeans(Communicator& comm, LossSums& sums, int64_t images);

}  // namespace shardit
