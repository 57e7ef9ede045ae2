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
  explicit RankContext(int threads, std::span<const int> cpus = {})
      : pool_(threads, cpus), workspace_(threads), cpu_{pool_, workspace_}, allocator_(Device::Cpu()) {}
  RankContext(const RankContext&) = delete;
  RankContext& operator=(const RankContext&) = delete;

  Device device() const { return allocator_.device(); }
  ThreadPool& pool() { return pool_; }
  Allocator& allocator() { return allocator_; }
  CpuContext& cpu() { return cpu_; }
  OpRing& ops() { return ops_; }
  Timeline& timeline() { return timeline_; }

 private:
  ThreadPool pool_;
  Workspace workspace_;
  CpuContext cpu_;
  Allocator allocator_;
  OpRing ops_;
  Timeline timeline_;
};

}  // namespace shardit
