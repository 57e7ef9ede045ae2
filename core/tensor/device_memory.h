// Memory, copies, streams and events of a CUDA device: what the allocator, tensors and communicators need of it,
// without its headers. In a build without CUDA code every function fails a CHECK, but for those that say otherwise.
//
// Asynchronous calls run in the order of their stream. Calls that wait for the device say so; they must not be made
// while the stream is being captured.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor/device.h"

namespace shardit::cuda {

// Null where the device has not that much left.
void* AllocateDeviceMemory(Device device, int64_t bytes);
// Waits for the device.
void FreeDeviceMemory(Device device, void* block);

struct DeviceMemoryInfo {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
DeviceMemoryInfo MemoryInfo(Device device);

// Host memory that the device copies from and to without a detour. Never null.
void* AllocatePinned(int64_t bytes);
void FreePinned(void* block);

// Between any two places, either of them on the device. Pageable host memory is read before the call returns; pinned
// memory must stay as it is until the copy is done.
void CopyAsync(void* to, const void* from, int64_t bytes, Stream stream);
void ZeroAsync(void* data, int64_t bytes, Stream stream);
// `rows` rows of `width` bytes, `pitch` bytes apart.
void Zero2dAsync(void* data, int64_t pitch, int64_t width, int64_t rows, Stream stream);

// A stream that does not wait for the default stream. High priority: its kernels are scheduled before others'.
Stream NewStream(Device device, bool high_priority = false);
void DestroyStream(Stream stream);
// Waits until everything issued on the stream is done.
void Synchronize(Stream stream);

// A point in a stream. Movable handle; never copied.
class Event {
 public:
  // For ordering; with `timing`, for MillisecondsTo.
  static Event Make(Device device, bool timing = false);
  Event() = default;
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  bool defined() const { return handle_ != nullptr; }
  void Record(Stream stream);
  // Later work of `stream` waits for the recorded point.
  void MakeWait(Stream stream) const;
  // Whether the device has passed it; without blocking.
  bool Done() const;
  // Waits for the device.
  void Synchronize() const;
  // Between two recorded and passed events with timing.
  float MillisecondsTo(const Event& end) const;

 private:
  void* handle_ = nullptr;
};

// Later work of `then` waits for everything issued on `first` so far. The one way by which streams are ordered.
void Order(Stream first, Stream then);

// The rank's device for the calling thread: kernels are launched on it.
void UseDevice(Device device);

}  // namespace shardit::cuda
