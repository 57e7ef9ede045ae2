// Everything a rank owns that would otherwise be process-global: its threads, scratch memory, allocator and, where it
// computes on a GPU, its device. Ranks can therefore be threads of one process. One compute thread uses a RankContext
// at a time.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "core/base/cpu_context.h"
#include "core/base/thread_pool.h"
#include "core/base/timeline.h"
#include "core/base/workspace.h"
#include "core/tensor/allocator.h"
#include "core/tensor/cuda_context.h"
#include "core/tensor/device.h"
#include "core/tensor/device_memory.h"
#include "core/tensor/op_ring.h"

namespace shardit {

class RankContext {
 public:
  // Computes on the CPU. `threads` >= 1; `cpus`, when given, are the logical processors to pin the pool's threads to.
  explicit RankContext(int threads, std::span<const int> cpus = {})
      : RankContext(threads, cpus, Device::Cpu(), nullptr, nullptr) {}
  // Computes on a GPU; the threads are for what stays on the host.
  RankContext(Device device, const CudaOptions& options, int threads, std::span<const int> cpus = {})
      : RankContext(threads, cpus, device, cuda::Runtime::Make(device, options), nullptr) {
    CHECK(cuda_ != nullptr) << "this build has no CUDA code";
    if (options.reserve_bytes > 0) allocator_.Reserve(options.reserve_bytes);
  }
  RankContext(const RankContext&) = delete;
  RankContext& operator=(const RankContext&) = delete;

  // A rank that runs nothing and holds nothing: kernels record their cost in `plan`, which outlives the context, and
  // the allocator counts blocks that are not there. Its high-water mark is that of a real rank that takes the same
  // steps. Scratch memory of kernels (Workspace) and of communication is outside of it, as it is for a real rank.
  // `device` is the one it stands for; it need not exist.
  static RankContext Planning(CostRecorder& plan, Device device = Device::Cpu()) {
    return RankContext(1, {}, device, nullptr, &plan);
  }

  Device device() const { return allocator_.device(); }
  ThreadPool& pool() { return pool_; }
  Allocator& allocator() { return allocator_; }
  CpuContext& cpu() { return cpu_; }
  bool planning() const { return cpu_.plan != nullptr; }
  // Kernels run on a GPU: then cuda() is there. Where a step is planned, CPU kernels record their cost instead.
  bool on_cuda() const { return cuda_ != nullptr; }
  CudaContext& cuda() { return cuda_->context(); }
  // Waits until the device has done everything issued so far; nothing to wait for on the CPU.
  void Synchronize() {
    if (on_cuda()) cuda::Synchronize(cuda().stream);
  }
  OpRing& ops() { return ops_; }
  Timeline& timeline() { return timeline_; }

 private:
  RankContext(int threads, std::span<const int> cpus, Device device, std::unique_ptr<cuda::Runtime> cuda,
              CostRecorder* plan)
      : pool_(threads, cpus),
        workspace_(threads),
        cpu_{pool_, workspace_, plan},
        cuda_(std::move(cuda)),
        allocator_(device, plan, on_cuda() ? cuda_->context().stream : Stream{device}) {
    timeline_.UseClock(plan);
  }

  ThreadPool pool_;
  Workspace workspace_;
  CpuContext cpu_;
  const std::unique_ptr<cuda::Runtime> cuda_;
  Allocator allocator_;
  OpRing ops_;
  Timeline timeline_;
};

}  // namespace shardit
