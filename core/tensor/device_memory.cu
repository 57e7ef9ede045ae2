#include "core/cuda/launch.cuh"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

cudaEvent_t HandleOf(void* event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

void* AllocateDeviceMemory(Device device, int64_t bytes) {
  UseDevice(device);
  void* block = nullptr;
  const cudaError_t error = cudaMalloc(&block, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the caller says what it means
    return nullptr;
  }
  CUDA_CHECK(error);
  return block;
}

void FreeDeviceMemory(Device device, void* block) {
  UseDevice(device);
  CUDA_CHECK(cudaFree(block));
}

DeviceMemoryInfo MemoryInfo(Device device) {
  UseDevice(device);
  size_t free_bytes = 0, total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

void* AllocatePinned(int64_t bytes) {
  void* block = nullptr;
  // Portable: pinned for every device of the process.
  CUDA_CHECK(cudaHostAlloc(&block, static_cast<size_t>(bytes), cudaHostAllocPortable));
  return block;
}

void FreePinned(void* block) { CUDA_CHECK(cudaFreeHost(block)); }

void CopyAsync(void* to, const void* from, int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, Handle(stream)));
}

void ZeroAsync(void* data, int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), Handle(stream)));
}

void Zero2dAsync(void* data, int64_t pitch, int64_t width, int64_t rows, Stream stream) {
  if (rows == 0 || width == 0) return;
  if (rows == 1 || pitch == width) return ZeroAsync(data, rows * width, stream);
  CUDA_CHECK(cudaMemset2DAsync(data, static_cast<size_t>(pitch), 0, static_cast<size_t>(width),
                               static_cast<size_t>(rows), Handle(stream)));
}

Stream NewStream(Device device, bool high_priority) {
  UseDevice(device);
  int lowest = 0, highest = 0;
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, high_priority ? highest : lowest));
  return {device, stream};
}

void DestroyStream(Stream stream) { CUDA_CHECK(cudaStreamDestroy(Handle(stream))); }

void Synchronize(Stream stream) { CUDA_CHECK(cudaStreamSynchronize(Handle(stream))); }

Event Event::Make(Device device, bool timing) {
  UseDevice(device);
  cudaEvent_t handle = nullptr;
  CUDA_CHECK(cudaEventCreateWithFlags(&handle, timing ? cudaEventDefault : cudaEventDisableTiming));
  Event event;
  event.handle_ = handle;
  return event;
}

Event::Event(Event&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }

Event& Event::operator=(Event&& other) noexcept {
  if (this != &other) {
    if (handle_ != nullptr) CUDA_CHECK(cudaEventDestroy(HandleOf(handle_)));
    handle_ = other.handle_;
    other.handle_ = nullptr;
  }
  return *this;
}

Event::~Event() {
  if (handle_ != nullptr) CUDA_CHECK(cudaEventDestroy(HandleOf(handle_)));
}

void Event::Record(Stream stream) { CUDA_CHECK(cudaEventRecord(HandleOf(handle_), Handle(stream))); }

void Event::MakeWait(Stream stream) const { CUDA_CHECK(cudaStreamWaitEvent(Handle(stream), HandleOf(handle_), 0)); }

bool Event::Done() const {
  const cudaError_t state = cudaEventQuery(HandleOf(handle_));
  if (state == cudaErrorNotReady) return false;
  CUDA_CHECK(state);
  return true;
}

void Event::Synchronize() const { CUDA_CHECK(cudaEventSynchronize(HandleOf(handle_))); }

float Event::MillisecondsTo(const Event& end) const {
  float milliseconds = 0;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, HandleOf(handle_), HandleOf(end.handle_)));
  return milliseconds;
}

void Order(Stream first, Stream then) {
  if (first.handle == then.handle) return;
  Event event = Event::Make(first.device);
  event.Record(first);
  event.MakeWait(then);  // CUDA keeps the event until those who wait for it have passed it
}

void UseDevice(Device device) { CUDA_CHECK(cudaSetDevice(device.index)); }

}  // namespace shardit::cuda
