#include "core/cuda/gemm_plans.h"
#include "core/cuda/graph.h"
#include "core/cuda/growing_memory.h"
#include "core/cuda/launch.cuh"
#include "core/tensor/cuda_context.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

class StreamScratch : public Scratch {
 public:
  explicit StreamScratch(Stream stream) : stream_(stream), memory_(stream.device) {}

  void* Get(int64_t bytes) override {
    CHECK(bytes <= memory_.bytes() || !IsCapturing(stream_))
        << "scratch memory would grow from " << memory_.bytes() << " to " << bytes << " bytes inside a capture";
    void* region = memory_.Get(bytes);
    CHECK(region != nullptr || bytes == 0)
        << "out of memory on " << stream_.device << ": " << bytes << " bytes of scratch";
    return region;
  }

 private:
  const Stream stream_;
  GrowingMemory memory_;
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
