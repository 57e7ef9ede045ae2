// Devices, errors and kernel launches.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"
#include "tests/cuda_emulator/symbols.h"

namespace cuda_emulator {
namespace {

thread_local int current_device = -1;  // -1: none chosen, and CUDA takes the first
thread_local cudaError_t last_error = cudaSuccess;
thread_local bool in_host_function = false;

constexpr int kMultiprocessors = 132;
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kBlocksPerMultiprocessor = 32;
constexpr size_t kSharedPerMultiprocessor = 228 << 10;
constexpr size_t kReservedSharedPerBlock = 1 << 10;
constexpr int kRegisters = 64 << 10;

// Kernels that may have more than 48 KiB of dynamic shared memory, with how much.
struct FunctionTable {
  std::mutex mutex;
  std::map<const void*, size_t> shared_bytes;
};
FunctionTable& Functions() {
  static FunctionTable* table = new FunctionTable;
  return *table;
}

size_t MaxDynamicShared(const void* function) {
  FunctionTable& table = Functions();
  std::lock_guard lock(table.mutex);
  const auto found = table.shared_bytes.find(function);
  return found == table.shared_bytes.end() ? kDefaultSharedBytes : found->second;
}

uint64_t Product(const dim3& v) { return uint64_t{v.x} * v.y * v.z; }

cudaError_t CheckConfig(const cudaLaunchConfig_t& config, const void* kernel) {
  const uint64_t threads = Product(config.blockDim);
  if (threads == 0 || threads > kMaxThreads || config.blockDim.z > 64) return cudaErrorInvalidConfiguration;
  if (Product(config.gridDim) == 0 || config.gridDim.x > 0x7fffffffu || config.gridDim.y > 65535 ||
      config.gridDim.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (config.dynamicSmemBytes > MaxDynamicShared(kernel)) return cudaErrorInvalidValue;
  return cudaSuccess;
}

}  // namespace

cudaError_t Report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

int CurrentDevice() { return std::max(current_device, 0); }
void RequireChosenDevice(const char* call) {
  if (current_device >= 0 || GlobalSettings().devices == 1) return;
  Fatal(std::string(call) + " on a thread that has chosen none of several devices: it would start up the first");
}
bool InHostFunction() { return in_host_function; }
void SetInHostFunction(bool inside) { in_host_function = inside; }

cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
  static std::atomic<uint64_t> launches{0};
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* stream = Streams::Instance().Resolve(config.stream);
  if (stream == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = CheckConfig(config, kernel); error != cudaSuccess) return Report(error);
  KernelRun run{kernel, config.gridDim, config.blockDim, config.dynamicSmemBytes, std::move(thread)};
  Operation operation{.name = "a kernel", .type = cudaGraphNodeTypeKernel};
  operation.run = [run = std::move(run)]() mutable {
    run.seed = GlobalSettings().seed + 0x9E3779B97F4A7C15u * ++launches;
    RunKernel(run);
  };
  return Report(Streams::Instance().Issue(lock, stream, std::move(operation)));
}

void CheckKernelArgument(const void* kernel, int index, const void* argument) {
  if (argument == nullptr || Memory::Instance().Find(argument) != Place::kPageable) return;
  Fatal("kernel " + KernelName(kernel) + ": argument " + std::to_string(index) +
        " is the address of pageable host memory");
}

}  // namespace cuda_emulator

using cuda_emulator::GlobalSettings;
using cuda_emulator::Report;

cudaError_t cudaGetLastError() { return std::exchange(cuda_emulator::last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return cuda_emulator::last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define CUDA_EMULATOR_CASE(name) \
  case name:                     \
    return #name;
    CUDA_EMULATOR_CASE(cudaSuccess)
    CUDA_EMULATOR_CASE(cudaErrorInvalidValue)
    CUDA_EMULATOR_CASE(cudaErrorMemoryAllocation)
    CUDA_EMULATOR_CASE(cudaErrorInvalidConfiguration)
    CUDA_EMULATOR_CASE(cudaErrorInvalidPitchValue)
    CUDA_EMULATOR_CASE(cudaErrorInvalidDevicePointer)
    CUDA_EMULATOR_CASE(cudaErrorInvalidMemcpyDirection)
    CUDA_EMULATOR_CASE(cudaErrorInvalidDevice)
    CUDA_EMULATOR_CASE(cudaErrorInvalidDeviceFunction)
    CUDA_EMULATOR_CASE(cudaErrorInvalidResourceHandle)
    CUDA_EMULATOR_CASE(cudaErrorNoDevice)
    CUDA_EMULATOR_CASE(cudaErrorNotReady)
    CUDA_EMULATOR_CASE(cudaErrorIllegalAddress)
    CUDA_EMULATOR_CASE(cudaErrorNotPermitted)
    CUDA_EMULATOR_CASE(cudaErrorNotSupported)
    CUDA_EMULATOR_CASE(cudaErrorHostMemoryAlreadyRegistered)
    CUDA_EMULATOR_CASE(cudaErrorHostMemoryNotRegistered)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureUnsupported)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureInvalidated)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureMerge)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureUnmatched)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureUnjoined)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureIsolation)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureImplicit)
    CUDA_EMULATOR_CASE(cudaErrorCapturedEvent)
    CUDA_EMULATOR_CASE(cudaErrorStreamCaptureWrongThread)
    CUDA_EMULATOR_CASE(cudaErrorGraphExecUpdateFailure)
    CUDA_EMULATOR_CASE(cudaErrorUnknown)
#undef CUDA_EMULATOR_CASE
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = GlobalSettings().devices;
  return *count > 0 ? cudaSuccess : Report(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= GlobalSettings().devices) return Report(cudaErrorInvalidDevice);
  cuda_emulator::current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = cuda_emulator::CurrentDevice();
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= GlobalSettings().devices) return Report(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "Emulated CUDA device");
  properties->totalGlobalMem = GlobalSettings().memory_bytes;
  properties->sharedMemPerBlock = cuda_emulator::kDefaultSharedBytes;
  properties->regsPerBlock = properties->regsPerMultiprocessor = cuda_emulator::kRegisters;
  properties->warpSize = cuda_emulator::kWarpSize;
  properties->maxThreadsPerBlock = cuda_emulator::kMaxThreads;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = cuda_emulator::kMaxThreads;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = 9;
  properties->multiProcessorCount = cuda_emulator::kMultiprocessors;
  properties->canMapHostMemory = properties->concurrentKernels = properties->unifiedAddressing = 1;
  properties->streamPrioritiesSupported = 1;
  properties->pciBusID = device + 1;
  properties->asyncEngineCount = 3;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerMultiProcessor = cuda_emulator::kThreadsPerMultiprocessor;
  properties->sharedMemPerMultiprocessor = cuda_emulator::kSharedPerMultiprocessor;
  properties->sharedMemPerBlockOptin = GlobalSettings().shared_bytes;
  properties->maxBlocksPerMultiProcessor = cuda_emulator::kBlocksPerMultiprocessor;
  properties->reservedSharedMemPerBlock = cuda_emulator::kReservedSharedPerBlock;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = properties.regsPerBlock;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = properties.maxBlocksPerMultiProcessor;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = static_cast<int>(properties.reservedSharedMemPerBlock);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCanMapHostMemory:
      *value = 1;
      break;
    case cudaDevAttrAsyncEngineCount:
      *value = properties.asyncEngineCount;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* bus_id, int length, int device) {
  if (device < 0 || device >= GlobalSettings().devices) return Report(cudaErrorInvalidDevice);
  std::snprintf(bus_id, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can_access, int device, int peer) {
  const int count = GlobalSettings().devices;
  if (device < 0 || device >= count || peer < 0 || peer >= count) return Report(cudaErrorInvalidDevice);
  *can_access = device != peer ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > GlobalSettings().shared_bytes) return Report(cudaErrorInvalidValue);
  cuda_emulator::FunctionTable& table = cuda_emulator::Functions();
  std::lock_guard lock(table.mutex);
  table.shared_bytes[function] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  *attributes = {};
  attributes->maxThreadsPerBlock = cuda_emulator::kMaxThreads;
  attributes->numRegs = 32;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(cuda_emulator::MaxDynamicShared(function));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int block_size,
                                                          size_t dynamic_shared_bytes) {
  if (block_size <= 0 || block_size > cuda_emulator::kMaxThreads) return Report(cudaErrorInvalidValue);
  const int warps = (block_size + cuda_emulator::kWarpSize - 1) / cuda_emulator::kWarpSize;
  const int by_threads = cuda_emulator::kThreadsPerMultiprocessor / (warps * cuda_emulator::kWarpSize);
  const size_t by_shared =
      cuda_emulator::kSharedPerMultiprocessor / (dynamic_shared_bytes + cuda_emulator::kReservedSharedPerBlock);
  *blocks = dynamic_shared_bytes > cuda_emulator::MaxDynamicShared(function)
                ? 0
                : std::min({by_threads, cuda_emulator::kBlocksPerMultiprocessor, static_cast<int>(by_shared)});
  return cudaSuccess;
}
