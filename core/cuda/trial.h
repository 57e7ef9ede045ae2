// Trying out which way is the fastest: timing, and memory for results that nobody wants.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "core/tensor/device.h"

namespace shardit::cuda {

// The median time of `body`'s work on the stream, in microseconds, of 5 after a warm-up; short work is repeated within
// each. Waits for the device.
double TimeOnStream(Stream stream, absl::FunctionRef<void()> body);

// Device memory that lives as long as the object; freeing it waits for the device. Null where there is not that much.
class TrialMemory {
 public:
  TrialMemory(Device device, int64_t bytes);
  ~TrialMemory();
  TrialMemory(const TrialMemory&) = delete;
  TrialMemory& operator=(const TrialMemory&) = delete;
  void* get() const { return block_; }

 private:
  const Device device_;
  void* block_ = nullptr;
};

}  // namespace shardit::cuda
