#include "trainer/train/device_batch.h"

#include <cstring>
#include <span>

namespace shardit {
namespace {

SampleTensors Allocate(Allocator& allocator, const DitConfig& config, int64_t images) {
  const MemoryOwnerScope owner(allocator, MemoryOwner::kBuffers);
  return {.x = Tensor::Empty(allocator, {images, config.channels, config.side, config.side}),
          .labels = Tensor::Empty(allocator, {images}, DType::kI32),
          .positions = Tensor::Empty(allocator, {images}, DType::kI64)};
}

template <class T>
void Send(std::span<const T> values, const HostBuffer& staging, const Tensor& landing, Stream stream) {
  CHECK_EQ(static_cast<int64_t>(values.size()), landing.elements()) << "[batch] elements";
  std::memcpy(staging.data(), values.data(), values.size_bytes());
  cuda::CopyAsync(landing.raw(), staging.data(), landing.bytes(), stream);
}

}  // namespace

DeviceBatch::DeviceBatch(RankContext& context, const DitConfig& config, int64_t images)
    : context_(context),
      images_(images),
      copies_(cuda::NewStream(context.device())),
      samples_(Allocate(context.allocator(), config, images)),
      landing_(Allocate(context.allocator(), config, images)),
      landed_(cuda::Event::Make(context.device())),
      landing_free_(cuda::Event::Make(context.device())) {
  for (Staging& staging : staging_) {
    staging.x = HostBuffer(samples_.x.bytes(), /*pinned=*/true);
    staging.labels = HostBuffer(samples_.labels.bytes(), /*pinned=*/true);
    staging.positions = HostBuffer(samples_.positions.bytes(), /*pinned=*/true);
    staging.sent = cuda::Event::Make(context.device());
  }
  // The landing place may be memory that earlier work on the compute stream still uses.
  cuda::Order(context.cuda().stream, copies_);
}

DeviceBatch::~DeviceBatch() {
  cuda::Synchronize(copies_);
  context_.Synchronize();
  cuda::DestroyStream(copies_);
}

void DeviceBatch::Stage(const Batch& batch) {
  CHECK_EQ(staged_, taken_) << "[batch] a staged batch was not taken";
  Staging& staging = staging_[static_cast<size_t>(staged_ % 2)];
  // The host waits only where two batches are staged within the time of one copy.
  if (staged_ >= 2) staging.sent.Synchronize();
  if (taken_ > 0) landing_free_.MakeWait(copies_);
  Send(batch.x, staging.x, landing_.x, copies_);
  Send(batch.y, staging.labels, landing_.labels, copies_);
  Send(batch.positions, staging.positions, landing_.positions, copies_);
  staging.sent.Record(copies_);
  landed_.Record(copies_);
  ++staged_;
}

const SampleTensors& DeviceBatch::Take() {
  CHECK_EQ(staged_, taken_ + 1) << "[batch] no batch is staged";
  ++taken_;
  const Stream compute = context_.cuda().stream;
  landed_.MakeWait(compute);
  samples_.x.CopyFrom(landing_.x);
  samples_.labels.CopyFrom(landing_.labels);
  samples_.positions.CopyFrom(landing_.positions);
  landing_free_.Record(compute);
  return samples_;
}

}  // namespace shardit
