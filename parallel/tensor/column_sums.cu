#include <algorithm>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/cuda/pack.cuh"
#include "parallel/tensor/column_sums.h"

namespace shardit::cuda {
namespace {

constexpr int kLanes = 32, kWarps = 8;
constexpr int64_t kMinRows = 64;        // of one block: below it, partial sums cost more than they save
constexpr int64_t kBlocksPerSm = 4;     // enough loads in flight to fill the memory pipes
constexpr int64_t kMaxRowBlocks = 512;  // what the second stage has to sum

// Block (c, r) sums rows [r rows_per_block, ...) of kLanes * kVector columns into out[r, :]. A warp takes every eighth
// row; the warps' sums are added in their order.
template <class T, int kVector>
__global__ void __launch_bounds__(kLanes* kWarps)
    SumRows(const T* x, int64_t rows, int64_t width, int64_t rows_per_block, float* out, bool accumulate) {
  __shared__ float shared[kWarps][kLanes * kVector];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kLanes + threadIdx.x) * kVector;
  const int64_t begin = blockIdx.y * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  float sums[kVector] = {};
  if (column < width) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += kWarps) {
      const Pack<T, kVector> pack = *reinterpret_cast<const Pack<T, kVector>*>(x + row * width + column);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] += pack[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) shared[threadIdx.y][i * kLanes + threadIdx.x] = sums[i];
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    float total = 0;
    for (int warp = 0; warp < kWarps; ++warp) total += shared[warp][i * kLanes + threadIdx.x];
    float* const to = out + blockIdx.y * width + column + i;
    *to = accumulate ? *to + total : total;
  }
}

template <class T>
void Launch(const T* x, int64_t rows, int64_t width, int64_t rows_per_block, float* out, bool accumulate,
            Stream stream) {
  constexpr int kVector = kPackSize<T>;
  const bool vectors = width % kVector == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const int64_t columns = kLanes * (vectors ? kVector : 1);
  const dim3 grid(static_cast<unsigned>(CeilDiv(width, columns)), static_cast<unsigned>(CeilDiv(rows, rows_per_block)));
  cuda::Launch(vectors ? SumRows<T, kVector> : SumRows<T, 1>, grid, dim3(kLanes, kWarps), 0, stream, x, rows, width,
               rows_per_block, out, accumulate);
}

template <class T>
void Sum(const ColumnSumsArgs& args, CudaContext& context) {
  const T* const x = static_cast<const T*>(args.x.raw());
  const int64_t column_blocks = CeilDiv(args.width, int64_t{kLanes} * kPackSize<T>);
  const int64_t wanted = CeilDiv(kBlocksPerSm * context.multiprocessors, column_blocks);
  const int64_t row_blocks = std::clamp(args.rows / kMinRows, int64_t{1}, std::min(wanted, kMaxRowBlocks));
  if (row_blocks == 1) return Launch(x, args.rows, args.width, args.rows, args.sums, args.accumulate, context.stream);
  const int64_t rows_per_block = CeilDiv(args.rows, row_blocks);
  const int64_t partials = CeilDiv(args.rows, rows_per_block);
  float* const partial = static_cast<float*>(context.scratch->Get(partials * args.width * SizeOf(DType::kF32)));
  Launch(x, args.rows, args.width, rows_per_block, partial, false, context.stream);
  Launch<float>(partial, partials, args.width, partials, args.sums, args.accumulate, context.stream);
}

}  // namespace

void ColumnSums(const ColumnSumsArgs& args, CudaContext& context) {
  if (args.width == 0) return;
  CHECK(args.x.dtype() == DType::kF32 || args.x.dtype() == DType::kBF16) << "[column sums] of " << Name(args.x.dtype());
  args.x.dtype() == DType::kBF16 ? Sum<__nv_bfloat16>(args, context) : Sum<float>(args, context);
}

}  // namespace shardit::cuda
