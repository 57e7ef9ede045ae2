#include "core/cuda/pack.cuh"
#include "core/ops/embedding.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarp = 32;

// One pack of one row of y a thread.
template <class T, int kCount>
__global__ void FwdKernel(const T* __restrict__ table, const int32_t* __restrict__ ids, T* __restrict__ y,
                          int64_t count, int64_t width) {
  const int64_t packs = width / kCount, item = int64_t{blockIdx.x} * kThreads + threadIdx.x, n = item / packs;
  if (n >= count) return;
  const int64_t column = (item - n * packs) * kCount;
  StorePack(y + n * width + column, LoadPack<kCount>(table + int64_t{ids[n]} * width + column));
}

// A block owns kThreads columns of one row of the table. Its warps look through the ids, 32 at a time, and add the rows
// of dy that name it in their order.
template <class T>
__global__ void BwdKernel(const T* __restrict__ dy, const int32_t* __restrict__ ids, float* __restrict__ dtable,
                          bool accumulate, int64_t count, int64_t width) {
  const int row = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  float* const to = dtable + row * width + column;
  float sum = accumulate && column < width ? *to : 0.0f;
  for (int64_t first = 0; first < count; first += kWarp) {
    const bool named = first + lane < count && ids[first + lane] == row;
    for (unsigned left = __ballot_sync(0xffffffffu, named); left != 0; left &= left - 1) {
      const int64_t n = first + __ffs(static_cast<int>(left)) - 1;
      if (column < width) sum += ToFloat(dy[n * width + column]);
    }
  }
  if (column < width) *to = sum;
}

}  // namespace

void EmbeddingFwd(const EmbeddingFwdArgs& args, CudaContext& context) {
  const auto& [table, ids, y, rows, count, width] = args;
  if (count == 0 || width == 0) return;
  WithType(y.dtype(), [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackSize<T>;
    const bool fit = width % kPack == 0 && PacksFit(table, kPack) && PacksFit(y, kPack);
    const int64_t items = fit ? count * (width / kPack) : count * width;
    Launch(fit ? FwdKernel<T, kPack> : FwdKernel<T, 1>, static_cast<unsigned>(CeilDiv(items, kThreads)), kThreads, 0,
           context.stream, static_cast<const T*>(table.raw()), ids, static_cast<T*>(y.raw()), count, width);
  });
}

void EmbeddingBwd(const EmbeddingBwdArgs& args, CudaContext& context) {
  const auto& [dy, ids, dtable, accumulate, rows, count, width] = args;
  WithType(dy.dtype(), [&](auto element) {
    using T = decltype(element);
    Launch(BwdKernel<T>, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(CeilDiv(width, kThreads))), kThreads,
           0, context.stream, static_cast<const T*>(dy.raw()), ids, dtable, accumulate, count, width);
  });
}

}  // namespace shardit::cuda
