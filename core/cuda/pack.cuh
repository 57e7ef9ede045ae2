// Elements in registers: runs of consecutive fp32 or bf16 elements, loaded and stored in accesses of up to 16 bytes and
// computed with in fp32. For *.cu files.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/tensor/dtype.h"
#include "core/tensor/elements.h"

namespace shardit::cuda {

__device__ __forceinline__ float ToFloat(float value) { return value; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

// Rounds to the nearest, ties to even.
template <class T>
__device__ __forceinline__ T FromFloat(float value);
template <>
__device__ __forceinline__ float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Elements of a 16-byte access.
template <class T>
constexpr int kPackSize = static_cast<int>(16 / sizeof(T));

// kCount (a power of two) elements as they lie in memory, where their address is a multiple of alignof(Pack). Those of
// bf16 stay in pairs, so that a pack takes half the registers of its values until they are asked for.
template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Pack {
  T element[kCount];

  __device__ __forceinline__ float operator[](int i) const { return ToFloat(element[i]); }
  static __device__ __forceinline__ Pack Of(const float (&values)[kCount]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.element[i] = FromFloat<T>(values[i]);
    return pack;
  }
};

template <int kCount>
requires(kCount > 1) struct alignas(kCount < 8 ? 2 * kCount : 16) Pack<__nv_bfloat16, kCount> {
  using Word __attribute__((may_alias)) = uint32_t;
  Word word[kCount / 2];

  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
  }
  static __device__ __forceinline__ Pack Of(const float (&values)[kCount]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {  // one instruction rounds two
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[i], values[i + 1]);
      memcpy(&pack.word[i / 2], &pair, sizeof(pair));
    }
    return pack;
  }
};

// A GPU stops at an access that is not aligned; other processors do not.
template <class Pack>
__device__ __forceinline__ void CheckAligned(const void* address) {
#ifdef SHARDIT_CUDA_EMULATION
  if (reinterpret_cast<uintptr_t>(address) % alignof(Pack) != 0) __trap();
#endif
}

template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> LoadPack(const T* from) {
  CheckAligned<Pack<T, kCount>>(from);
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <class T, int kCount>
__device__ __forceinline__ void Unpack(const Pack<T, kCount>& pack, float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = pack[i];
}

template <int kCount, class T>
__device__ __forceinline__ void StorePack(T* to, const Pack<T, kCount>& pack) {
  CheckAligned<Pack<T, kCount>>(to);
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

// Makes the compiler forget what it has computed from the pack: values that are needed again later are unpacked again,
// instead of filling registers in between.
template <class T, int kCount>
__device__ __forceinline__ void Forget(Pack<T, kCount>& pack) {
#ifndef SHARDIT_CUDA_EMULATION
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(pack.element[i]));
  } else if constexpr (kCount > 1) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) asm volatile("" : "+r"(pack.word[i]));
  }
#endif
}

// Rounds and stores.
template <int kCount, class T>
__device__ __forceinline__ void StorePack(T* to, const float (&values)[kCount]) {
  StorePack(to, Pack<T, kCount>::Of(values));
}

// Whether packs of `count` elements, `stride` elements apart, can start at `operand`. Null: yes.
inline bool PacksFit(ConstElements operand, int count, int64_t stride = 0) {
  const int64_t size = SizeOf(operand.dtype());
  const int64_t bytes = count * size < 16 ? count * size : 16;
  return operand.raw() == nullptr || (reinterpret_cast<uintptr_t>(operand.raw()) % static_cast<uintptr_t>(bytes) == 0 &&
                                      stride * size % bytes == 0);
}

// Calls body with an element of the device type that `dtype` names, fp32 or bf16.
template <class Body>
void WithType(DType dtype, const Body& body) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << "[cuda] elements of type " << Name(dtype);
  dtype == DType::kF32 ? body(float{}) : body(__nv_bfloat16{});
}

// Calls body.Run<k>(i), k = kCount for whole packs and 1 for the elements left over, so that all of [0, count) is met
// once. Every call is of a thread of its own or follows the same thread's calls for lower i.
template <int kCount, class Body>
__global__ void ForPacksKernel(Body body, int64_t count) {
  int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kCount;
  if (i + kCount <= count) {
    body.template Run<kCount>(i);
  } else {
    for (; i < count; ++i) body.template Run<1>(i);
  }
}

// `fit`: packs of kCount can start at every operand.
template <int kCount, class Body>
void ForPacks(const Body& body, bool fit, int64_t count, Stream stream) {
  constexpr int kThreads = 256;
  const int64_t threads = fit ? CeilDiv(count, kCount) : count;
  Launch(fit ? ForPacksKernel<kCount, Body> : ForPacksKernel<1, Body>,
         static_cast<unsigned>(CeilDiv(threads, kThreads)), kThreads, 0, stream, body, count);
}

}  // namespace shardit::cuda
