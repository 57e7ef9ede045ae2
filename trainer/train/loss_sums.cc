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

StepSums::StepSums(Allocator& allocator) : limbs_(Tensor::Zeros(allocator, {kStepSums, exact::kLimbs}, DType::kI64)) {}

void StepSums::AddImages(const ForwardLossResult& result, CudaContext& context) const {
  static_assert(kMseSum == kLossSum + 1 && kVbSum == kLossSum + 2);
  const Tensor& images = result.device_per_image;
  cuda::AddImageLosses(static_cast<const ImageLoss*>(images.raw()), images.dim(0), limbs(kLossSum), context);
}

Work StepSums::AllReduce(Communicator& world) const {
  return world.AllReduce(limbs(), limbs(), limbs_.elements(), ReduceOp::kSum, {.tag = "step sums", .control = true});
}

int64_t* StepSums::limbs(StepSum first) const { return limbs_.data<int64_t>() + first * exact::kLimbs; }

}  // namespace shardit
