// Sums of per-image losses over whatever ranks saw the images, with the same bits for every way of sharing them out.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/exact_sum.h"
#include "core/tensor/tensor.h"
#include "model/diffusion_batch.h"
#include "parallel/comm/communicator.h"
#include "trainer/train/update_control.h"

namespace shardit {

struct LossSums {
  ExactSum loss, mse, vb;
};

void AddImages(std::span<const ImageLoss> images, LossSums& sums);

// Adds up `sum` over the ranks of `comm`, in place: integers, so any order gives the same bits. A control message.
Work AllReduceLimbs(Communicator& comm, ExactSum& sum);

// Collective: the sums over all ranks of `comm`, divided by `images`.
LossResult AllReduceMeans(Communicator& comm, LossSums& sums, int64_t images);

// The sums of a step on a GPU, losses and squares of gradients, as limbs in device memory (core/base/exact_digits.h).
// Everything runs in the order of the rank's stream and waits for nobody.
class StepSums {
 public:
  // `allocator` is a GPU's and outlives the sums.
  explicit StepSums(Allocator& allocator);

  // To be called before the first addition of a step.
  void Zero() const { limbs_.Zero(); }
  // Adds the losses of a batch, as they lie on the device.
  void AddImages(const ForwardLossResult& result, CudaContext& context) const;
  // Sums over the ranks of `world`, in place. One control message.
  Work AllReduce(Communicator& world) const;

  int64_t* limbs(StepSum first = kSquaresSum) const;

 private:
  const Tensor limbs_;  // [kStepSums, exact::kLimbs]
};

}  // namespace shardit
