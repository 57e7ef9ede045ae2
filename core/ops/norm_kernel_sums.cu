#include <algorithm>
#include <vector>

#include "core/ops/norm_kernel.cuh"

namespace shardit::cuda {
namespace {

constexpr int kMaxSums = 3;

struct SumList {
  RunSums sums[kMaxSums];
};

// A thread sums one column over every kSlices-th run; then the slices are added in their order.
template <int kLanes, int kSlices>
__global__ void AddUpKernel(const __grid_constant__ SumList list, int64_t runs, int width) {
  __shared__ float shared[kSlices][kLanes];
  const RunSums& sum = list.sums[blockIdx.y];
  const int64_t blocks = (width + kLanes - 1) / kLanes, row = blockIdx.x / blocks;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, slice = static_cast<int>(threadIdx.x) / kLanes;
  const int column = static_cast<int>(blockIdx.x - row * blocks) * kLanes + lane;
  float total[1] = {0};
  if (column < width) {
    const float* from = sum.sums + row * runs * width + column;
#pragma unroll 4
    for (int64_t run = slice; run < runs; run += kSlices) total[0] += from[run * width];
  }
  if constexpr (kSlices > 1) {
    shared[slice][lane] = total[0];
    __syncthreads();
    if (slice > 0) return;
    for (int other = 1; other < kSlices; ++other) total[0] += shared[other][lane];
  }
  if (column < width) sum.grad.Store(row, column, total);
}

template <int kLanes, int kSlices>
void LaunchAddUp(const SumList& list, int64_t count, int64_t rows, int64_t runs, int64_t width, Stream stream) {
  Launch(AddUpKernel<kLanes, kSlices>,
         dim3(static_cast<unsigned>(rows * CeilDiv(width, kLanes)), static_cast<unsigned>(count)), kLanes * kSlices, 0,
         stream, list, runs, static_cast<int>(width));
}

// The more runs there are of a row, the more threads share a column.
void AddUp(const SumList& list, int64_t count, int64_t rows, int64_t runs, int64_t width, Stream stream) {
  if (runs <= 16) return LaunchAddUp<128, 1>(list, count, rows, runs, width, stream);
  if (runs <= 128) return LaunchAddUp<32, 8>(list, count, rows, runs, width, stream);
  LaunchAddUp<16, 32>(list, count, rows, runs, width, stream);
}

}  // namespace

void AddUpRuns(std::span<const RunSums> sums, const NormShape& shape, int64_t runs, Stream stream) {
  for (const bool one_row : {false, true}) {
    SumList list{};
    int64_t count = 0;
    for (const RunSums& sum : sums) {
      if (sum.one_row == one_row) list.sums[count++] = sum;
    }
    if (count == 0) continue;
    AddUp(list, count, one_row ? 1 : shape.images, one_row ? shape.images * runs : runs, shape.width, stream);
  }
}

}  // namespace shardit::cuda
