// Scratch memory of a rank's CPU kernels: packed panels, score blocks, partial sums. Areas only grow, so a training
// step that repeats its shapes allocates nothing after the first. Owned by the rank's context beside its ThreadPool;
// never shared between ranks. Contents do not survive from one kernel to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/check.h"

namespace shardit {

class Workspace {
 public:
  static constexpr size_t kAlignment = 64;  // bytes: a cache line, and the widest vector

  // One private area for each of `threads` threads of the rank's pool, and one area shared by them.
  explicit Workspace(int threads);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Area of thread `thread`, at least `count` elements, aligned. To be called by that thread only; the pointer holds
  // until the next call with the same thread. A kernel that needs several arrays carves them from one call.
  template <typename T>
  T* ThreadArea(int thread, int64_t count) {
    CHECK(thread >= 0 && thread < static_cast<int>(thread_areas_.size())) << "thread " << thread;
    return static_cast<T*>(Grow(thread_areas_[static_cast<size_t>(thread)], static_cast<size_t>(count) * sizeof(T)));
  }

  // The shared area. To be called by the thread that starts parallel regions, outside of them.
  template <typename T>
  T* SharedArea(int64_t count) {
    return static_cast<T*>(Grow(shared_area_, static_cast<size_t>(count) * sizeof(T)));
  }

  // Bytes held in all areas: for memory reports. Outside of parallel regions.
  int64_t bytes() const;

 private:
  struct alignas(kAlignment) Area {  // a line each: threads grow theirs at the same time
    void* data = nullptr;
    size_t bytes = 0;
  };
  static void* Grow(Area& area, size_t bytes);

  std::vector<Area> thread_areas_;
  Area shared_area_;
};

}  // namespace shardit
