#include "trainer/train/loss_sums.h"

namespace shardit {

void AddImages(std::span<const ImageLoss> images, LossSums& sums) {
  for (const ImageLoss& image : images) {
    sums.loss.Add(image.loss());
    sums.mse.Add(image.mse);
    sums.vb.Add(image.vb);
  }
}

Work AllReduceLimbs(Communicator& comm, ExactSum& sum) {
  const std::span<int64_t> limbs = sum.limbs();
  return comm.AllReduce(limbs.data(), limbs.data(), static_cast<int64_t>(limbs.size()), ReduceOp::kSum,
                        {.tag = "exact sum", .control = true});
}

LossResult AllReduceMeans(Communicator& comm, LossSums& sums, int64_t images) {
  const Work works[] = {AllReduceLimbs(comm, sums.loss), AllReduceLimbs(comm, sums.mse), AllReduceLimbs(comm, sums.vb)};
  for (const Work& work : works) work.Wait();
  const double denominator = static_cast<double>(images);
  return {sums.loss.Round() / denominator, sums.mse.Round() / denominator, sums.vb.Round() / denominator};
}

}  // namespace shardit
