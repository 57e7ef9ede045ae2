// The memory of one rank: a caching allocator of size-classed blocks. After the first steps of a training run with
// static shapes every request is served from blocks that came back, so the system is not asked again; tests assert it
// through stats().system_allocations.
//
// Thread-safe. Blocks are 64-byte aligned. Freed blocks are kept until the allocator dies or Trim() is called.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "core/tensor/device.h"

namespace shardit {

struct AllocatorStats {
  int64_t bytes_in_use = 0;        // requested by live blocks, rounded up to the size class
  int64_t peak_bytes_in_use = 0;   // high-water mark of bytes_in_use since construction or ResetPeak()
  int64_t bytes_reserved = 0;      // held from the system: live and cached blocks
  int64_t system_allocations = 0;  // calls that had to ask the system
};

class Allocator {
 public:
  explicit Allocator(Device device) : device_(device) {}
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  Device device() const { return device_; }
  // Never null; running out of memory ends the process with the allocator's statistics. bytes == 0 gives a valid block.
  void* Allocate(int64_t bytes);
  void Free(void* block, int64_t bytes);

  AllocatorStats stats() const;
  void ResetPeak();
  // Gives cached blocks back to the system.
  void Trim();

  // The bytes that a request occupies: the next size class (8 classes per power of two, at least 64 bytes).
  static int64_t RoundedSize(int64_t bytes);

 private:
  const Device device_;
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> cache_;  // size class -> free blocks
  AllocatorStats stats_;
};

}  // namespace shardit
