// What kernel tests share: a device to run on, and vectors in its memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/cuda/device_query.h"
#include "core/tensor/cuda_context.h"
#include "core/tensor/device_memory.h"
#include "gtest/gtest.h"
#include "tests/cuda/wants_gpus.h"

namespace shardit::cuda {

// Device 0, in use from the first call to the end of the program.
inline CudaContext& TestContext() {
  static Runtime* const runtime = Runtime::Make(Device::Cuda(0), {}).release();
  return runtime->context();
}

// Tests that need a device; without one each skips itself.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_GPUS(1); }
};

// Elements in device memory, copied in the order of TestContext's stream. A new vector of a count holds anything, in
// the emulator NaN.
template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(int64_t count)
      : count_(count),
        data_(static_cast<T*>(AllocateDeviceMemory(TestContext().stream.device, count > 0 ? bytes() : 1))) {}
  explicit DeviceVector(const std::vector<T>& values) : DeviceVector(static_cast<int64_t>(values.size())) {
    Upload(values);
  }
  ~DeviceVector() {
    if (data_ != nullptr) FreeDeviceMemory(TestContext().stream.device, data_);
  }
  DeviceVector(DeviceVector&& other) noexcept : count_(other.count_), data_(other.data_) { other.data_ = nullptr; }
  DeviceVector& operator=(DeviceVector&&) = delete;

  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  T* data() { return data_; }
  const T* data() const { return data_; }

  // `values` has size() elements.
  void Upload(const std::vector<T>& values) { CopyAsync(data_, values.data(), bytes(), TestContext().stream); }
  // Waits for everything on the stream.
  std::vector<T> Download() const {
    std::vector<T> values(static_cast<size_t>(count_));
    CopyAsync(values.data(), data_, bytes(), TestContext().stream);
    Synchronize(TestContext().stream);
    return values;
  }

 private:
  int64_t count_;
  T* data_;
};

}  // namespace shardit::cuda
