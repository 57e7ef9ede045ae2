// GrowingMemory: one region of device memory that grows when more is asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/device.h"

namespace shardit::cuda {

// What it has outgrown it keeps to its end, at most as much again: to free memory is to wait for everything on the
// device, receives included whose sends a pipeline issues behind work that waits for this rank.
class GrowingMemory {
 public:
  explicit GrowingMemory(Device device) : device_(device) {}
  ~GrowingMemory();
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  // At least `bytes`, kAlignment-byte aligned, the same region as before where it is large enough. Null where the
  // device has not that much left, and may be of no bytes. Does not wait for the device; not inside a capture where
  // bytes > bytes().
  void* Get(int64_t bytes);
  int64_t bytes() const { return bytes_; }

  static constexpr int64_t kAlignment = 256;  // bytes, what cudaMalloc gives

 private:
  const Device device_;
  std::vector<void*> regions_;  // the last one is in use
  int64_t bytes_ = 0;           // of the last one
};

}  // namespace shardit::cuda
