#include <algorithm>

#include "core/base/math.h"
#include "core/cuda/pack.cuh"
#include "core/ops/column_sums.h"

namespace shardit::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kWarps = 8;
// Loads that a thread has under way.
constexpr int kUnroll = 4;
// Rows of a run at least: a thread's share of fewer would not pay for its last step.
constexpr int64_t kLeastRows = kWarps * 2 * kUnroll;
// Blocks that a multiprocessor runs at once, by their registers.
constexpr int64_t kBlocksAtOnce = 6;
constexpr int kFinishWarps = 32;

// Warp w of a block sums rows w, w + kWarps, ... of its run, a pack of columns a thread; then the block its warps, in
// order. Block (x, y): columns of group x, run y; row y of partials [runs, columns] gets the sums, or, of a single run,
// the destination.
template <int kPack, class T>
__global__ void __launch_bounds__(kLanes* kWarps)
    SumRunsKernel(const T* __restrict__ x, int64_t ld, int64_t rows, int64_t columns, int64_t rows_per_run,
                  float* __restrict__ partials, bool accumulate) {
  __shared__ float warp_sums[kWarps][kLanes * kPack];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t first_column = int64_t{blockIdx.x} * (kLanes * kPack);
  const int64_t column = first_column + lane * kPack;
  const int64_t begin = int64_t{blockIdx.y} * rows_per_run;
  const int64_t end = begin + rows_per_run < rows ? begin + rows_per_run : rows;
  float sums[kPack] = {};
  if (column < columns) {  // packs fit whole: columns is a multiple of their size
    int64_t row = begin + warp;
    for (; row + (kUnroll - 1) * kWarps < end; row += kUnroll * kWarps) {
      Pack<T, kPack> packs[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) packs[u] = LoadPack<kPack>(x + (row + u * kWarps) * ld + column);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int i = 0; i < kPack; ++i) sums[i] += packs[u][i];
      }
    }
    for (; row < end; row += kWarps) {
      const Pack<T, kPack> pack = LoadPack<kPack>(x + row * ld + column);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sums[i] += pack[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) warp_sums[warp][i * kLanes + lane] = sums[i];  // no two lanes in one bank
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < kLanes * kPack; j += kLanes * kWarps) {
    const int64_t to = first_column + j;
    if (to >= columns) break;
    const int place = j % kPack * kLanes + j / kPack;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += warp_sums[w][place];
    float* out = partials + int64_t{blockIdx.y} * columns + to;
    *out = accumulate ? *out + sum : sum;
  }
}

// One column a lane: warp w sums runs w, w + kFinishWarps, ..., then the first warp the others, in order.
__global__ void __launch_bounds__(kLanes* kFinishWarps)
    FinishSumsKernel(const float* __restrict__ partials, int64_t runs, int64_t columns, float* __restrict__ sums,
                     bool accumulate) {
  __shared__ float warp_sums[kFinishWarps][kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t column = int64_t{blockIdx.x} * kLanes + lane;
  float sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t run = warp; run < runs; run += kFinishWarps) sum += partials[run * columns + column];
  }
  warp_sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= columns) return;
#pragma unroll
  for (int w = 1; w < kFinishWarps; ++w) sum += warp_sums[w][lane];
  sums[column] = accumulate ? sums[column] + sum : sum;
}

template <int kPack, class T>
void Sum(const ColumnSumsArgs& args, CudaContext& context) {
  const int64_t groups = CeilDiv(args.columns, kLanes * kPack);
  const int64_t wanted = CeilDiv(kBlocksAtOnce * context.multiprocessors, groups);
  const int64_t rows_per_run = std::max(CeilDiv(args.rows, wanted), kLeastRows);
  const int64_t runs = std::max<int64_t>(CeilDiv(args.rows, rows_per_run), 1);
  const bool direct = runs == 1;
  float* partials =
      direct ? args.sums : static_cast<float*>(context.scratch->Get(runs * args.columns * int64_t{sizeof(float)}));
  Launch(SumRunsKernel<kPack, T>, dim3(static_cast<unsigned>(groups), static_cast<unsigned>(runs)), kLanes * kWarps, 0,
         context.stream, static_cast<const T*>(args.x.raw()), args.ld, args.rows, args.columns, rows_per_run, partials,
         direct && args.accumulate);
  if (direct) return;
  Launch(FinishSumsKernel, static_cast<unsigned>(CeilDiv(args.columns, kLanes)), kLanes * kFinishWarps, 0,
         context.stream, partials, runs, args.columns, args.sums, args.accumulate);
}

}  // namespace

void ColumnSums(const ColumnSumsArgs& args, CudaContext& context) {
  if (args.columns == 0) return;
  WithType(args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackSize<T>;
    const bool fit = args.columns % kPack == 0 && PacksFit(args.x, kPack, args.ld);
    fit ? Sum<kPack, T>(args, context) : Sum<1, T>(args, context);
  });
}

}  // namespace shardit::cuda
