// Graph: device work, recorded once and replayed with one call: a whole training step without the host between its
// kernels. What changes between replays is read from device memory.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "core/tensor/device.h"

namespace shardit::cuda {

class Graph {
 public:
  // Records what `body` issues on `stream`, and on streams that it orders behind it and joins again
  // (core/tensor/device_memory.h, Order), without running it. Inside, nothing may wait for the device, and no memory
  // may be asked of the system. Fails a CHECK in a build without CUDA code.
  static std::unique_ptr<Graph> Capture(Stream stream, absl::FunctionRef<void()> body);
  virtual ~Graph() = default;

  // Issues the recorded work on `stream`, in its order.
  virtual void Launch(Stream stream) = 0;
  // Kernels, copies and fills.
  virtual int64_t nodes() const = 0;
};

// Whether the stream is being recorded.
bool IsCapturing(Stream stream);

}  // namespace shardit::cuda
