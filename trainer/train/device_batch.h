// DeviceBatch: the samples of a step on the rank's GPU, at addresses that never change, so that recorded work finds
// every step's batch where it found the first.
//
// The way there: pinned host memory, a landing place on the device, the batch itself. The copy to the device runs on a
// stream of its own and may lie under the step that computes: it writes the landing place only. The step begins with a
// copy from there to the batch, on the compute stream and within the device's memory, where a batch of latents takes
// microseconds. So nothing writes what a running step reads, and the landing place is free again as soon as a step has
// begun. (Ordering the copy from the host behind the step's last noise kernel instead would need no second buffer, but
// in a pipeline that kernel is one of the last to run, and the copy would no longer hide.)
#pragma once

#include <array>
#include <cstdint>

#include "core/tensor/device_memory.h"
#include "core/tensor/host_buffer.h"
#include "core/tensor/rank_context.h"
#include "data/loader.h"
#include "model/diffusion_batch.h"
#include "model/dit_config.h"

namespace shardit {

class DeviceBatch {
 public:
  // Of `images` samples a step. `context` computes on a GPU and outlives the object.
  DeviceBatch(RankContext& context, const DitConfig& config, int64_t images);
  // Waits for the device.
  ~DeviceBatch();
  DeviceBatch(const DeviceBatch&) = delete;
  DeviceBatch& operator=(const DeviceBatch&) = delete;

  // Sends `batch`, of exactly so many samples, on its way; it may change once the call returns. The batch staged before
  // has been taken. May be called while a step runs, for the next one.
  void Stage(const Batch& batch);
  // Makes the staged batch the current one: later work on the compute stream sees it. Between two steps, outside of
  // recorded work.
  const SampleTensors& Take();

  // The current batch; the same tensors in every step.
  const SampleTensors& samples() const { return samples_; }

 private:
  // One of two, in turns: a batch is written while the one before may still be on its way.
  struct Staging {
    HostBuffer x, labels, positions;
    cuda::Event sent;
  };

  RankContext& context_;
  const int64_t images_;
  const Stream copies_;
  SampleTensors samples_, landing_;
  std::array<Staging, 2> staging_;
  int64_t staged_ = 0;  // batches so far
  int64_t taken_ = 0;
  cuda::Event landed_, landing_free_;
};

}  // namespace shardit
