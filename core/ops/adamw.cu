#include <cuda_bf16.h>

#include <algorithm>

#include "core/base/check.h"
#include "core/base/exact_digits.h"
#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/ops/adamw.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;  // elements of a thread: 16-byte loads
constexpr int64_t kTile = kThreads * kVector;
// Blocks a multiprocessor is given: two elements' worth of registers each would fit more, but these already keep 80 KiB
// of loads in flight on it, several times what hides the latency of its memory.
constexpr int kUpdateBlocks = 4;

struct UpdatePointers {
  float* param;
  const float* grad;
  float* m;
  float* v;
  float* ema;
  __nv_bfloat16* compute;
};

// The operations of AdamwElements in adamw_cpu.cc, in their order and with their roundings.
__device__ __forceinline__ void UpdateElement(const AdamwScalars& s, float grad, float& param, float& m, float& v) {
  const float g = __fmul_rn(grad, s.grad_scale);
  m = __fmaf_rn(s.one_minus_beta1, g, __fmul_rn(m, s.beta1));
  v = __fmaf_rn(__fmul_rn(g, g), s.one_minus_beta2, __fmul_rn(v, s.beta2));
  const float denominator = __fmaf_rn(__fsqrt_rn(v), s.inverse_root_correction2, s.eps);
  param = __fsub_rn(__fmul_rn(param, s.keep), __fdiv_rn(__fmul_rn(m, s.step), denominator));
}

__device__ __forceinline__ float UpdateEma(const AdamwScalars& s, float param, float ema) {
  return __fmaf_rn(param, s.one_minus_ema_decay, __fmul_rn(ema, s.ema_decay));
}

__device__ __forceinline__ void UpdateOne(const AdamwScalars& s, const UpdatePointers& at, int64_t i) {
  float param = at.param[i], m = at.m[i], v = at.v[i];
  UpdateElement(s, at.grad[i], param, m, v);
  at.m[i] = m;
  at.v[i] = v;
  at.param[i] = param;
  if (at.ema != nullptr) at.ema[i] = UpdateEma(s, param, at.ema[i]);
  if (at.compute != nullptr) at.compute[i] = __float2bfloat16(param);
}

__device__ __forceinline__ float4 Load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ void Store4(float* to, const float4& value) { *reinterpret_cast<float4*>(to) = value; }

__device__ __forceinline__ void UpdateFour(const AdamwScalars& s, const UpdatePointers& at, int64_t i) {
  float4 param = Load4(at.param + i), m = Load4(at.m + i), v = Load4(at.v + i);
  const float4 grad = Load4(at.grad + i);
  float4 ema{};
  if (at.ema != nullptr) ema = Load4(at.ema + i);
  UpdateElement(s, grad.x, param.x, m.x, v.x);
  UpdateElement(s, grad.y, param.y, m.y, v.y);
  UpdateElement(s, grad.z, param.z, m.z, v.z);
  UpdateElement(s, grad.w, param.w, m.w, v.w);
  Store4(at.m + i, m);
  Store4(at.v + i, v);
  Store4(at.param + i, param);
  if (at.ema != nullptr) {
    Store4(at.ema + i, float4{UpdateEma(s, param.x, ema.x), UpdateEma(s, param.y, ema.y), UpdateEma(s, param.z, ema.z),
                              UpdateEma(s, param.w, ema.w)});
  }
  if (at.compute != nullptr) {
    union {
      __nv_bfloat162 pairs[2];
      uint2 word;
    } rounded{{__floats2bfloat162_rn(param.x, param.y), __floats2bfloat162_rn(param.z, param.w)}};
    *reinterpret_cast<uint2*>(at.compute + i) = rounded.word;
  }
}

__device__ __forceinline__ bool IsAligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

__device__ __forceinline__ UpdatePointers PointersAt(const AdamwRunsArgs& args, const AdamwRun& run) {
  return {args.param + run.param,
          args.grad + run.grad,
          args.m + run.moments,
          args.v + run.moments,
          args.ema == nullptr ? nullptr : args.ema + run.moments,
          args.compute == nullptr ? nullptr : reinterpret_cast<__nv_bfloat16*>(args.compute) + run.compute};
}

__device__ __forceinline__ bool TakesVectors(const UpdatePointers& at) {
  return IsAligned(at.param, 16) && IsAligned(at.grad, 16) && IsAligned(at.m, 16) && IsAligned(at.v, 16) &&
         IsAligned(at.ema, 16) && IsAligned(at.compute, 8);
}

// A block takes tiles in strides of the grid, so its run only ever moves forward.
__global__ void __launch_bounds__(kThreads, kUpdateBlocks) AdamwKernel(const AdamwRunsArgs args) {
  if (*args.skip != 0) return;
  const AdamwScalars scalars = *args.scalars;
  int64_t index = 0;
  for (int64_t tile = blockIdx.x; tile < args.tiles; tile += gridDim.x) {
    while (index + 1 < args.run_count && args.runs[index + 1].first_tile <= tile) ++index;
    const AdamwRun run = args.runs[index];
    const UpdatePointers at = PointersAt(args, run);
    const int64_t first = (tile - run.first_tile) * kTile;
    if (TakesVectors(at)) {
      const int64_t i = first + kVector * static_cast<int64_t>(threadIdx.x);
      if (i + kVector <= run.count) {
        UpdateFour(scalars, at, i);
      } else {
        for (int64_t k = i; k < run.count; ++k) UpdateOne(scalars, at, k);
      }
    } else {
      for (int k = 0; k < kVector; ++k) {
        const int64_t i = first + k * kThreads + static_cast<int64_t>(threadIdx.x);
        if (i < run.count) UpdateOne(scalars, at, i);
      }
    }
  }
}

// A block of squares is the work of four lanes of a warp, each of which holds four of the sixteen running sums that
// adamw_cpu.cc forms: together they read 64 contiguous bytes at a time.
constexpr int kSquaresThreads = 128;
constexpr int kLanes = 4;                          // of a block of squares
constexpr int kGroups = kSquaresThreads / kLanes;  // blocks of squares under way in a thread block
constexpr int kGroupsOfWarp = 32 / kLanes;
constexpr int kStep = kLanes * kVector;  // elements
constexpr int kSquaresBlocks = 10;       // a multiprocessor; 17.3 KiB of shared memory each

__device__ __forceinline__ double AddSquare(float value, double sum) {
  return fma(static_cast<double>(value), static_cast<double>(value), sum);
}

// Zero behind `count`, which adds nothing: to the bit, as no sum is ever -0.
template <bool kAligned>
__device__ __forceinline__ float4 LoadSome(const float* values, int64_t i, int64_t count) {
  if (kAligned && i + kVector <= count) return Load4(values + i);
  float4 some{0, 0, 0, 0};
  if (i < count) some.x = values[i];
  if (i + 1 < count) some.y = values[i + 1];
  if (i + 2 < count) some.z = values[i + 2];
  if (i + 3 < count) some.w = values[i + 3];
  return some;
}

template <bool kAligned>
__device__ __forceinline__ void SumLane(const float* values, int64_t count, int lane, double (&sums)[kVector]) {
#pragma unroll 8
  for (int64_t i = lane * kVector; i < cpu::kSquaresBlock; i += kStep) {
    const float4 some = LoadSome<kAligned>(values, i, count);
    sums[0] = AddSquare(some.x, sums[0]);
    sums[1] = AddSquare(some.y, sums[1]);
    sums[2] = AddSquare(some.z, sums[2]);
    sums[3] = AddSquare(some.w, sums[3]);
  }
}

// The sixteen sums, in halves: lane l holds those from 4 l on. All lanes of the warp call it; lane 0 of four gets it.
__device__ __forceinline__ double AddLanes(double (&sums)[kVector]) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    for (int k = 0; k < kVector; ++k) sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], distance);
  }
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// Every group of lanes adds its blocks' sums to digits of its own, without atomics; they come together at the end.
__global__ void __launch_bounds__(kSquaresThreads, kSquaresBlocks) SumOfSquaresKernel(const SumOfSquaresArgs args) {
  __shared__ int64_t digits[kGroups * exact::kLimbs];
  for (int i = threadIdx.x; i < kGroups * exact::kLimbs; i += kSquaresThreads) digits[i] = 0;
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x), group = thread / kLanes, lane = thread % kLanes;
  const int group_of_warp = group % kGroupsOfWarp;
  int64_t* const own = digits + group * exact::kLimbs;
  int64_t index = 0;
  // A warp leaves as one, since its lanes meet in AddLanes.
  for (int64_t first = int64_t{blockIdx.x} * kGroups + group - group_of_warp; first < args.blocks;
       first += int64_t{gridDim.x} * kGroups) {
    const int64_t block = first + group_of_warp;
    double sums[kVector] = {};
    if (block < args.blocks) {
      while (index + 1 < args.run_count && args.runs[index + 1].first_block <= block) ++index;
      const SquaresRun run = args.runs[index];
      const int64_t begin = (block - run.first_block) * cpu::kSquaresBlock;
      const float* values = args.values + run.begin + begin;
      IsAligned(values, 16) ? SumLane<true>(values, run.count - begin, lane, sums)
                            : SumLane<false>(values, run.count - begin, lane, sums);
    }
    const exact::Term term = exact::TermOf(AddLanes(sums));
    if (lane == 0) {
      for (int k = 0; k < 3; ++k) {
        if (term.part[k] != 0) own[term.limb + k] += term.part[k];
      }
    }
  }
  __syncthreads();
  for (int limb = threadIdx.x; limb < exact::kLimbs; limb += kSquaresThreads) {
    int64_t sum = 0;
    for (int g = 0; g < kGroups; ++g) sum += digits[g * exact::kLimbs + limb];
    // Integers: the order in which thread blocks arrive does not show.
    if (sum != 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(args.limbs + limb), static_cast<unsigned long long>(sum));
  }
}

}  // namespace

int64_t PlaceTiles(std::span<AdamwRun> runs) {
  int64_t tiles = 0;
  for (AdamwRun& run : runs) {
    run.first_tile = tiles;
    tiles += CeilDiv(run.count, kTile);
  }
  return tiles;
}

void AdamwEma(const AdamwRunsArgs& args, CudaContext& context) {
  const int64_t blocks = std::min<int64_t>(args.tiles, int64_t{context.multiprocessors} * kUpdateBlocks);
  Launch(AdamwKernel, static_cast<unsigned>(blocks), kThreads, 0, context.stream, args);
}

int64_t PlaceBlocks(std::span<SquaresRun> runs) {
  int64_t blocks = 0;
  for (SquaresRun& run : runs) {
    run.first_block = blocks;
    blocks += CeilDiv(run.count, cpu::kSquaresBlock);
  }
  return blocks;
}

void SumOfSquares(const SumOfSquaresArgs& args, CudaContext& context) {
  const int64_t blocks =
      std::min<int64_t>(CeilDiv(args.blocks, kGroups), int64_t{context.multiprocessors} * kSquaresBlocks);
  Launch(SumOfSquaresKernel, static_cast<unsigned>(blocks), kSquaresThreads, 0, context.stream, args);
}

}  // namespace shardit::cuda
