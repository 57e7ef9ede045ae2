// Memory calls of the runtime: allocation, copies and fills.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

namespace cuda_emulator {
namespace {

// Rows of `width` bytes, `to_pitch` and `from_pitch` bytes apart.
struct CopyShape {
  size_t to_pitch;
  size_t from_pitch;
  size_t width;
  size_t height;
};

size_t Span(size_t pitch, const CopyShape& shape) { return (shape.height - 1) * pitch + shape.width; }

void CopyRows(char* to, const char* from, const CopyShape& shape) {
  for (size_t row = 0; row < shape.height; ++row) {
    std::memmove(to + row * shape.to_pitch, from + row * shape.from_pitch, shape.width);
  }
}

bool DirectionFits(cudaMemcpyKind kind, bool to_device, bool from_device) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

// Pageable memory is read before the call returns, and written before it returns: the call then waits.
cudaError_t Copy(void* to, const void* from, const CopyShape& shape, cudaMemcpyKind kind, cudaStream_t handle,
                 bool wait) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* stream = Streams::Instance().Resolve(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (wait) {
    if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return error;
  }
  if (shape.width == 0 || shape.height == 0) return cudaSuccess;
  if (shape.height > 1 && (shape.width > shape.to_pitch || shape.width > shape.from_pitch)) {
    return cudaErrorInvalidPitchValue;
  }
  Memory& memory = Memory::Instance();
  const Place to_place = memory.Find(to), from_place = memory.Find(from);
  if (!DirectionFits(kind, to_place == Place::kDevice, from_place == Place::kDevice)) {
    return cudaErrorInvalidMemcpyDirection;
  }
  const size_t to_bytes = Span(shape.to_pitch, shape), from_bytes = Span(shape.from_pitch, shape);
  if (to == nullptr || from == nullptr || !memory.IsValidRange(to, to_bytes) ||
      !memory.IsValidRange(from, from_bytes)) {
    return cudaErrorInvalidValue;
  }
  char* const to_bytes_begin = static_cast<char*>(to);
  const char* from_begin = static_cast<const char*>(from);
  if (to_bytes_begin < from_begin + from_bytes && from_begin < to_bytes_begin + to_bytes && shape.height == 1) {
    Fatal("a copy between ranges that overlap");
  }
  const bool pageable = to_place == Place::kPageable || from_place == Place::kPageable;
  if (pageable && stream->capture != nullptr) {
    stream->capture->invalidated = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  std::shared_ptr<std::vector<char>> staged;
  if (from_place == Place::kPageable) staged = std::make_shared<std::vector<char>>(from_begin, from_begin + from_bytes);
  Operation operation{.name = "cudaMemcpyAsync", .type = cudaGraphNodeTypeMemcpy};
  operation.run = [=] { CopyRows(to_bytes_begin, staged == nullptr ? from_begin : staged->data(), shape); };
  TaskPtr task;
  const cudaError_t error = Streams::Instance().Issue(lock, stream, std::move(operation), {}, &task);
  if (error != cudaSuccess) return error;
  if (wait || to_place == Place::kPageable) Scheduler::Instance().RunUntil(lock, [&] { return task->done; });
  return cudaSuccess;
}

cudaError_t Fill(void* pointer, size_t pitch, int value, size_t width, size_t height, cudaStream_t handle) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* stream = Streams::Instance().Resolve(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (width == 0 || height == 0) return cudaSuccess;
  if (height > 1 && width > pitch) return cudaErrorInvalidPitchValue;
  Memory& memory = Memory::Instance();
  if (memory.Find(pointer) == Place::kPageable || !memory.IsValidRange(pointer, (height - 1) * pitch + width)) {
    return cudaErrorInvalidValue;
  }
  Operation operation{.name = "cudaMemsetAsync", .type = cudaGraphNodeTypeMemset};
  operation.run = [=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(pointer) + row * pitch, value, width);
  };
  return Streams::Instance().Issue(lock, stream, std::move(operation));
}

// The calls below wait for the device, or would disturb a capture.
cudaError_t BeforeMemoryCall() {
  RequireChosenDevice("an allocation");
  const auto lock = Scheduler::Instance().Acquire();
  return Streams::Instance().RefuseWhileCapturing();
}

cudaError_t BeforeFree() {
  RequireChosenDevice("freeing memory");
  auto lock = Scheduler::Instance().Acquire();
  const cudaError_t error = Streams::Instance().RefuseWhileCapturing();
  if (error == cudaSuccess) Scheduler::Instance().RunAll(lock);
  return error;
}

}  // namespace
}  // namespace cuda_emulator

using cuda_emulator::Memory;
using cuda_emulator::Report;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (pointer == nullptr) return Report(cudaErrorInvalidValue);
  if (const cudaError_t error = cuda_emulator::BeforeMemoryCall(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().Allocate(bytes, cuda_emulator::CurrentDevice(), pointer));
}

cudaError_t cudaFree(void* pointer) {
  if (const cudaError_t error = cuda_emulator::BeforeFree(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().Free(pointer));
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  if (pointer == nullptr) return Report(cudaErrorInvalidValue);
  if (const cudaError_t error = cuda_emulator::BeforeMemoryCall(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().AllocatePinned(bytes, pointer));
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault); }

cudaError_t cudaFreeHost(void* pointer) {
  if (const cudaError_t error = cuda_emulator::BeforeFree(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().FreePinned(pointer));
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int flags) {
  if (const cudaError_t error = cuda_emulator::BeforeMemoryCall(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().Register(pointer, bytes));
}

cudaError_t cudaHostUnregister(void* pointer) {
  if (const cudaError_t error = cuda_emulator::BeforeFree(); error != cudaSuccess) return Report(error);
  return Report(Memory::Instance().Unregister(pointer));
}

cudaError_t cudaHostGetDevicePointer(void** device_pointer, void* host_pointer, unsigned int flags) {
  if (device_pointer == nullptr || Memory::Instance().Find(host_pointer) != cuda_emulator::Place::kPinned) {
    return Report(cudaErrorInvalidValue);
  }
  *device_pointer = host_pointer;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  size_t used = 0;
  Memory::Instance().Usage(cuda_emulator::CurrentDevice(), &used, total_bytes);
  *free_bytes = *total_bytes - used;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  int device = cuda_emulator::CurrentDevice();
  void* const address = const_cast<void*>(pointer);
  switch (Memory::Instance().Find(pointer, &device)) {
    case cuda_emulator::Place::kPageable:
      *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, address};
      break;
    case cuda_emulator::Place::kPinned:
      *attributes = {cudaMemoryTypeHost, device, address, address};
      break;
    case cuda_emulator::Place::kDevice:
      *attributes = {cudaMemoryTypeDevice, device, address, nullptr};
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return Report(cuda_emulator::Copy(to, from, {bytes, bytes, bytes, 1}, kind, nullptr, true));
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return Report(cuda_emulator::Copy(to, from, {bytes, bytes, bytes, 1}, kind, stream, false));
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return Report(cuda_emulator::Copy(to, from, {to_pitch, from_pitch, width, height}, kind, stream, false));
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  if (const cudaError_t error = cuda_emulator::BeforeMemoryCall(); error != cudaSuccess) return Report(error);
  return Report(cuda_emulator::Fill(pointer, bytes, value, bytes, 1, nullptr));
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  return Report(cuda_emulator::Fill(pointer, bytes, value, bytes, 1, stream));
}

cudaError_t cudaMemset2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  return Report(cuda_emulator::Fill(pointer, pitch, value, width, height, stream));
}
