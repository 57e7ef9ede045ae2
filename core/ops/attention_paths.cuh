// The ways in which attention runs on a GPU. attention.cu chooses by shape, type and alignment; all of them keep the
// contract of attention_kernel.h.
#pragma once

#include "core/cuda/launch.cuh"
#include "core/ops/attention_kernel.h"

namespace shardit::cuda::attention {

// A HeadsView as kernels take it.
template <typename T>
struct Heads {
  T* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;

  __device__ __forceinline__ T* At(int64_t batch, int64_t head) const {
    return data + batch * batch_stride + head * head_stride;
  }
};

template <typename T>
Heads<const T> InKernel(const ConstHeadsView& view) {
  return {static_cast<const T*>(view.data.raw()), view.batch_stride, view.row_stride, view.head_stride};
}
template <typename T>
Heads<T> InKernel(const HeadsView& view) {
  return {static_cast<T*>(view.data.raw()), view.batch_stride, view.row_stride, view.head_stride};
}

// bf16 on tensor cores: attention_fwd.cu, attention_bwd.cu. False, and nothing done, where they have no kernel for the
// head_dim, or it wants more shared memory than the device has (head_dim 128 where a block may have 99 KiB). All views'
// rows are 16-byte aligned.
bool TensorFwd(const AttentionFwdArgs& args, CudaContext& context);
bool TensorBwd(const AttentionBwdArgs& args, CudaContext& context);

// fp32 arithmetic on any shape, alignment and type: attention_any.cu.
void AnyFwd(const AttentionFwdArgs& args, CudaContext& context);
void AnyBwd(const AttentionBwdArgs& args, CudaContext& context);

// Shared memory that a block may have, in bytes.
int64_t SharedLimit(const CudaContext& context);

// Lets a kernel have `shared_bytes`, and asks for as little first-level cache as can be, so that several of its blocks
// share a multiprocessor.
template <class... Params>
void AllowManyShared(void (*kernel)(Params...), int64_t shared_bytes) {
  AllowShared(kernel, static_cast<size_t>(shared_bytes));
  CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout,
                                  100));  // percent
}

}  // namespace shardit::cuda::attention
