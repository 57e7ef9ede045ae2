// What a .cu file includes: the runtime's interface, its C++ templates, and the device language.
#pragma once

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_emulator_device.h"
#include "cuda_runtime_api.h"
#include "library_types.h"

template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes, unsigned int flags = 0) {
  return cudaHostAlloc(reinterpret_cast<void**>(pointer), bytes, flags);
}
template <class T>
cudaError_t cudaHostAlloc(T** pointer, size_t bytes, unsigned int flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(pointer), bytes, flags);
}
template <class T>
cudaError_t cudaHostGetDevicePointer(T** device_pointer, void* host_pointer, unsigned int flags) {
  return cudaHostGetDevicePointer(reinterpret_cast<void**>(device_pointer), host_pointer, flags);
}
template <class T>
cudaError_t cudaFuncSetAttribute(T* function, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(function), attribute, value);
}
template <class T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, T* function) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(function));
}
template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, T function, int block_size,
                                                          size_t dynamic_shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(function), block_size,
                                                       dynamic_shared_bytes);
}

namespace cuda_emulator {

// Issues a kernel: `thread` runs it once, as the current CUDA thread.
cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
// Stops the program where a kernel is given the address of pageable host memory.
void CheckKernelArgument(const void* kernel, int index, const void* argument);

template <class T>
void CheckArgument(const void* kernel, int index, const T& argument) {
  if constexpr (std::is_pointer_v<T> && !std::is_function_v<std::remove_pointer_t<T>>) {
    CheckKernelArgument(kernel, index, argument);
  }
}

}  // namespace cuda_emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernel parameters are copied as bytes");
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  const void* address = reinterpret_cast<const void*>(kernel);
  int index = 0;
  std::apply([&](const auto&... value) { (cuda_emulator::CheckArgument(address, index++, value), ...); }, values);
  return cuda_emulator::LaunchKernel(*config, address, [kernel, values] { std::apply(kernel, values); });
}
