// What every CUDA kernel runs on: the rank's compute stream, its scratch memory and what is known of the device. Passed
// by reference down the call chain, as CpuContext is; made by CudaRuntime, which owns the members.
//
// Order. All kernels of a rank's step run on `stream`, one after the other; whoever uses another stream orders it with
// events (core/tensor/device_memory.h). Nothing here waits for the device: a whole step can be captured in a graph.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor/device.h"

namespace shardit {

namespace cuda {
class GemmPlans;

// One region of device memory for what a single operation keeps between its kernels.
class Scratch {
 public:
  virtual ~Scratch() = default;
  // At least `bytes`, 256-byte aligned; valid for work on the stream until the next Get. Grows when asked for more than
  // ever before, which must not happen inside a capture (CHECK): run the step once before.
  virtual void* Get(int64_t bytes) = 0;
};
}  // namespace cuda

struct CudaContext {
  Stream stream;
  int multiprocessors = 0;
  bool tf32 = false;           // fp32 products may run in TF32
  bool deterministic = false;  // the same bits in every run: one algorithm per shape, no reductions in arrival order
  cuda::Scratch* scratch = nullptr;
  cuda::GemmPlans* gemm_plans = nullptr;  // core/cuda/gemm_plans.h
};

struct CudaOptions {
  bool tf32 = false;
  bool deterministic = false;
  // Times the candidates of every new matrix product shape and keeps the fastest; else the library's first choice,
  // which is the same on all ranks with equal devices.
  bool tune_products = false;
  int64_t reserve_bytes = 0;  // of the rank's allocator, taken at once (core/tensor/allocator.h)
};

namespace cuda {

// A device in use by one rank: its stream and everything that CudaContext points to.
class Runtime {
 public:
  // Null where this build has no CUDA code. `device` exists (core/cuda/device_query.h), else a CHECK.
  static std::unique_ptr<Runtime> Make(Device device, const CudaOptions& options);
  virtual ~Runtime() = default;
  virtual CudaContext& context() = 0;
};

}  // namespace cuda
}  // namespace shardit
