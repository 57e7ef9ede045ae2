#include <cuda_bf16.h>

#include <algorithm>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "parallel/comm/tree_sum.h"

namespace shardit::cuda {
namespace {

constexpr int kMaxLevels = 17;  // of a tree over 1 << 16 ranks
constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;

template <class T>
struct Wide {
  using Type = T;
  static __device__ T From(T x) { return x; }
  static __device__ T Round(T x) { return x; }
};
template <>
struct Wide<__nv_bfloat16> {
  using Type = float;
  static __device__ float From(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __device__ __nv_bfloat16 Round(float x) { return __float2bfloat16(x); }
};

// A binary counter carries: level l holds the sum of 2^l consecutive ranks.
template <class T>
__global__ void SumRanks(const T* own, const T* others, int ranks, int rank, T* out, int64_t count) {
  using Sum = typename Wide<T>::Type;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    Sum levels[kMaxLevels] = {};
    for (int r = 0; r < ranks; ++r) {
      const T* const from = r == rank ? own : others + (r < rank ? r : r - 1) * count;
      Sum sum = Wide<T>::From(from[i]);
      int level = 0;
      for (; (r >> level & 1) != 0; ++level) sum = levels[level] + sum;
      levels[level] = sum;
    }
    // What is left is carried up, smallest first.
    int level = 0;
    while ((ranks >> level & 1) == 0) ++level;
    Sum sum = levels[level];
    for (++level; ranks >> level != 0; ++level) {
      if ((ranks >> level & 1) != 0) sum = levels[level] + sum;
    }
    out[i] = Wide<T>::Round(sum);
  }
}

template <class T>
void Sum(const TreeSumArgs& args, Stream stream) {
  const int64_t blocks = std::min(CeilDiv(args.count, int64_t{kThreads}), kMaxBlocks);
  Launch(SumRanks<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
         static_cast<const T*>(args.own.raw()), static_cast<const T*>(args.others.raw()), args.ranks, args.rank,
         static_cast<T*>(args.out.raw()), args.count);
}

}  // namespace

void TreeSum(const TreeSumArgs& args, Stream stream) {
  CHECK(args.ranks >= 1 && args.ranks <= 1 << (kMaxLevels - 1)) << "[tree sum] of " << args.ranks << " ranks";
  switch (args.own.dtype()) {
    case DType::kF32:
      return Sum<float>(args, stream);
    case DType::kF64:
      return Sum<double>(args, stream);
    case DType::kBF16:
      return Sum<__nv_bfloat16>(args, stream);
    default:
      CHECK(false) << "[tree sum] of " << Name(args.own.dtype());
  }
}

}  // namespace shardit::cuda
