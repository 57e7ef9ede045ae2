#include <algorithm>

#include "core/base/math.h"
#include "core/cuda/gemm_plans.h"
#include "core/cuda/graph.h"
#include "core/cuda/launch.cuh"
#include "core/tensor/cuda_context.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

constexpr int64_t kFirstScratchBytes = int64_t{8} << 20;
constexpr int64_t kScratchAlignment = 256;  // bytes, what cudaMalloc gives

class StreamScratch : public Scratch {
 public:
  explicit StreamScratch(Stream stream) : stream_(stream) {}
  ~StreamScratch() override {
    if (region_ != nullptr) FreeDeviceMemory(stream_.device, region_);
  }

  void* Get(int64_t bytes) override {
    if (bytes <= bytes_) return region_;
    CHECK(!IsCapturing(stream_)) << "scratch memory would grow from " << bytes_ << " to " << bytes
                                 << " bytes inside a capture";
    if (region_ != nullptr) FreeDeviceMemory(stream_.device, region_);  // waits for the kernels that use it
    bytes_ = RoundUp(std::max({bytes, 2 * bytes_, kFirstScratchBytes}), kScratchAlignment);
    region_ = AllocateDeviceMemory(stream_.device, bytes_);
    CHECK(region_ != nullptr) << "out of memory on " << stream_.device << ": " << bytes_ << " bytes of scratch";
    return region_;
  }

 private:
  const Stream stream_;
  void* region_ = nullptr;
  int64_t bytes_ = 0;
};

class DeviceRuntime : public Runtime {
 public:
  DeviceRuntime(Device device, const CudaOptions& options)
      : stream_(NewStream(device)), scratch_(stream_), plans_(GemmPlans::Make(device, options)) {
    int multiprocessors = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device.index));
    context_ = {.stream = stream_,
                .multiprocessors = multiprocessors,
                .tf32 = options.tf32,
                .deterministic = options.deterministic,
                .scratch = &scratch_,
                .gemm_plans = plans_.get()};
  }
  ~DeviceRuntime() override {
    Synchronize(stream_);
    DestroyStream(stream_);
  }

  CudaContext& context() override { return context_; }

 private:
  const Stream stream_;
  StreamScratch scratch_;
  const std::unique_ptr<GemmPlans> plans_;
  CudaContext context_;
};

}  // namespace

std::unique_ptr<Runtime> Runtime::Make(Device device, const CudaOptions& options) {
  int count = 0;
  CUDA_CHECK(cudaGetDeviceCount(&count));
  CHECK(!device.is_cpu() && device.index >= 0 && device.index < count) << device << " of " << count << " CUDA devices";
  UseDevice(device);
  return std::make_unique<DeviceRuntime>(device, options);
}

}  // namespace shardit::cuda
