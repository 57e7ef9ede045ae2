// Everything a rank owns that would otherwise be process-global: its threads, scratch memory, allocator and stream.
// Ranks can therefore be threads of one process. One compute thread uses a RankContext at a time.
#pragma once

#include <span>

#include "core/base/cpu_context.h"
#include "core/base/thread_pool.h"
#include "core/base/timeline.h"
#include "core/base/workspace.h"
#include "core/tensor/allocator.h"
#include "core/tensor/device.h"
#include "core/tensor/op_ring.h"

namespace shardit {

class RankContext {
 public:
  // `threads` >= 1; `cpus`, when given, are the logical processors to pin the pool's threads to.
  explicit RankContext(int threads, std::span<const int> cpus = {}) : RankContext(threads, cpus, nullptr) {}
  RankContext(const RankContext&) = delete;
  RankContext& operator=(const RankContext&) = delete;

  // A rank that runs nothing and holds nothing: kernels record their cost in `plan`, which outlives the context, and
  // the allocator counts blocks that are not there. Its high-water mark is that of a real rank that takes the same
  // steps. Scratch memory of kernels (Workspace) and of communication is outside of it, as it is for a real rank.
  static RankContext Planning(CostRecorder& plan) { return RankContext(1, {}, &plan); }

  Device device() const { return allocator_.device(); }
  ThreadPool& pool() { return pool_; }
  Allocator& allocator() { return allocator_; }
  CpuContext& cpu() { return cpu_; }
  bool planning() const { return cpu_.plan != nullptr; }
  OpRing& ops() { return ops_; }
  Timeline& timeline() { return timeline_; }

 private:
  RankContext(int threads, std::span<const int> cpus, CostRecorder* plan)
      : pool_(threads, cpus), workspace_(threads), cpu_{pool_, workspace_, plan}, allocator_(Device::Cpu(), plan) {
    timeline_.UseClock(plan);
  }

  ThreadPool pool_;
  Workspace workspace_;
  CpuContext cpu_;
  Allocator allocator_;
  OpRing ops_;
  Timeline timeline_;
};

}  // namespace shardit
