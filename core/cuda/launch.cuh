// Launching kernels, and the few words that differ between compilers. For *.cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/cuda/cuda_check.h"
#include "core/tensor/device.h"

#ifdef SHARDIT_CUDA_EMULATION
#include "cuda_emulator.h"
// Declares `name` as the block's dynamic shared memory, 1024-byte aligned, seen as elements of `type`.
#define SHARDIT_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::cuda_emulator::DynamicShared())
#else
#define SHARDIT_DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(1024) unsigned char shardit_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(shardit_dynamic_shared)
#endif

namespace shardit::cuda {

inline cudaStream_t Handle(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// A grid of blocks of threads with `shared_bytes` of dynamic shared memory; more than 48 KiB must have been allowed
// with AllowShared. Grids of no block are allowed and do nothing.
template <class... Params, class... Args>
void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = Handle(stream);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// Lets a kernel have `shared_bytes` of dynamic shared memory. Cheap; call it before every launch that needs it.
template <class... Params>
void AllowShared(void (*kernel)(Params...), size_t shared_bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes)));
}

}  // namespace shardit::cuda
