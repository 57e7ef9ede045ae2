// What the forward and the backward norm kernels share: rows of images and their gradients, of types known at run time,
// and sums over the threads of a block in a fixed order. For core/ops/norm_kernel*.cu.
#pragma once

#include <span>

#include "core/cuda/pack.cuh"
#include "core/ops/norm_kernel.h"

namespace shardit::cuda {

constexpr int kWarp = 32;
constexpr int kGenericThreads = 256;  // of the kernels for any width and alignment

// ImageRows as kernels read them: the type costs a branch.
struct DeviceRows {
  const void* data;
  int64_t stride;  // elements
  bool bf16;

  explicit DeviceRows(const ImageRows& rows)
      : data(rows.data.raw()), stride(rows.stride), bf16(rows.data.dtype() == DType::kBF16) {}

  // Columns [column, column + kCount) of the image's row; packs fit.
  template <int kCount>
  __device__ __forceinline__ void Load(int64_t image, int column, float (&values)[kCount]) const {
    const int64_t at = image * stride + column;
    if (bf16) {
      Unpack(LoadPack<kCount>(static_cast<const __nv_bfloat16*>(data) + at), values);
    } else {
      Unpack(LoadPack<kCount>(static_cast<const float*>(data) + at), values);
    }
  }
  __device__ __forceinline__ float At(int64_t image, int column) const {
    float value[1];
    Load(image, column, value);
    return value[0];
  }
};

// ImageRowsGrad as kernels write it. Null data: not wanted.
struct DeviceRowsGrad {
  void* data = nullptr;
  int64_t stride = 0;  // elements
  bool bf16 = false;
  bool accumulate = false;

  DeviceRowsGrad() = default;
  explicit DeviceRowsGrad(const ImageRowsGrad& grad)
      : data(grad.data.raw()),
        stride(grad.stride),
        bf16(grad.data.dtype() == DType::kBF16),
        accumulate(grad.accumulate) {}
  // Dense fp32 rows, overwritten.
  DeviceRowsGrad(float* rows, int64_t width) : data(rows), stride(width) {}

  // Overwrites or adds to columns [column, column + kCount) of row `index`; packs fit.
  template <int kCount>
  __device__ __forceinline__ void Store(int64_t index, int column, const float (&sums)[kCount]) const {
    const int64_t at = index * stride + column;
    bf16 ? StoreAs(static_cast<__nv_bfloat16*>(data) + at, sums) : StoreAs(static_cast<float*>(data) + at, sums);
  }

 private:
  template <int kCount, class T>
  __device__ __forceinline__ void StoreAs(T* to, const float (&sums)[kCount]) const {
    if (!accumulate) return StorePack(to, sums);
    const Pack<T, kCount> old = LoadPack<kCount>(static_cast<const T*>(to));
    float total[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) total[i] = old[i] + sums[i];
    StorePack(to, total);
  }
};

// The sum over the warp's lanes, in all of them.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// kCount sums over the threads of a block of at most kMaxWarps warps, in all of them. `shared` may be used again once
// the block has passed another barrier: two that take turns need only the one in here.
template <int kCount, int kMaxWarps>
__device__ __forceinline__ void BlockSum(float (&values)[kCount], float (&shared)[kMaxWarps][kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = WarpSum(values[i]);
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) shared[threadIdx.x / kWarp][i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll 1
  for (int warp = 0; warp < warps; ++warp) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += shared[warp][i];
  }
}

// Sums over runs of tokens: [images * runs, width], from which the gradient's rows are made.
struct RunSums {
  const float* sums;
  DeviceRowsGrad grad;
  bool one_row;  // for all images
};

// Adds up the runs of every image, or of all images, in their order. At most three.
void AddUpRuns(std::span<const RunSums> sums, const NormShape& shape, int64_t runs, Stream stream);

}  // namespace shardit::cuda
