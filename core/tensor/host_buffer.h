// HostBuffer: host memory for copies to and from a device: pinned where there is one, plain where there is not.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/device_memory.h"

namespace shardit {

class HostBuffer {
 public:
  HostBuffer() = default;
  // Uninitialised. `pinned` needs a CUDA device.
  HostBuffer(int64_t bytes, bool pinned)
      : data_(pinned ? cuda::AllocatePinned(bytes) : std::malloc(static_cast<size_t>(bytes))), pinned_(pinned) {
    CHECK(data_ != nullptr || bytes == 0) << "out of memory: " << bytes << " bytes";
  }
  HostBuffer(HostBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), pinned_(other.pinned_) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(pinned_, other.pinned_);
    return *this;
  }
  ~HostBuffer() {
    if (data_ == nullptr) return;
    pinned_ ? cuda::FreePinned(data_) : std::free(data_);
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  bool pinned_ = false;
};

}  // namespace shardit
