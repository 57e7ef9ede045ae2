#include "trainer/train/device_batch.h"

#include <vector>

#include "tests/cuda/device_buffer.h"

namespace shardit {
namespace {

constexpr int64_t kImages = 3;

DitConfig SmallModel() {
  return {.depth = 1, .width = 24, .heads = 2, .patch = 2, .channels = 2, .side = 4, .classes = 3};
}

// Host memory of the batch of a step, every number of which names the step.
struct HostBatch {
  explicit HostBatch(int64_t step)
      : x(static_cast<size_t>(kImages * SmallModel().latent_elements()), static_cast<float>(step)),
        y(kImages, static_cast<int32_t>(step)),
        positions(kImages, step) {}
  Batch view() const { return {.x = x, .y = y, .positions = positions}; }
  std::vector<float> x;
  std::vector<int32_t> y;
  std::vector<int64_t> positions;
};

template <class T>
void ExpectAll(const Tensor& tensor, int64_t step) {
  std::vector<T> values(static_cast<size_t>(tensor.elements()));
  tensor.ToHost(values.data());
  EXPECT_EQ(values, std::vector<T>(values.size(), static_cast<T>(step)));
}

void ExpectStep(const SampleTensors& samples, int64_t step) {
  ExpectAll<float>(samples.x, step);
  ExpectAll<int32_t>(samples.labels, step);
  ExpectAll<int64_t>(samples.positions, step);
}

class CudaDeviceBatch : public cuda::CudaTest {};

TEST_F(CudaDeviceBatch, TakesWhatWasStagedAtTheSamePlace) {
  RankContext context(Device::Cuda(0), {}, 1);
  DeviceBatch batch(context, SmallModel(), kImages);
  const void* const place = batch.samples().x.raw();
  for (int64_t step = 1; step < 12; ++step) {
    batch.Stage(HostBatch(step).view());  // gone before the copy runs
    const SampleTensors& samples = batch.Take();
    EXPECT_EQ(samples.x.raw(), place);
    ExpectStep(samples, step);
  }
}

// The next batches are on their way while every step still reads its own: here the device runs behind by all of them.
TEST_F(CudaDeviceBatch, AStepSeesItsOwnBatchOnly) {
  RankContext context(Device::Cuda(0), {}, 1);
  DeviceBatch batch(context, SmallModel(), kImages);
  std::vector<Tensor> seen;
  batch.Stage(HostBatch(0).view());
  for (int64_t step = 0; step < 40; ++step) {
    const SampleTensors& samples = batch.Take();
    batch.Stage(HostBatch(step + 1).view());
    // The step: reads the samples at its beginning and at its end.
    for (int i = 0; i < 2; ++i) {
      seen.push_back(Tensor::Empty(context.allocator(), samples.x.shape()));
      seen.back().CopyFrom(samples.x);
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) ExpectAll<float>(seen[i], static_cast<int64_t>(i / 2));
}

}  // namespace
}  // namespace shardit
