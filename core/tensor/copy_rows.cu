#include <algorithm>

#include "core/base/math.h"
#include "core/cuda/pack.cuh"
#include "core/tensor/copy_rows.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

template <class From, class To>
struct Rows {
  const From* source;
  int64_t source_stride;
  To* destination;
  int64_t destination_stride;
  int64_t rows;
  int64_t count;
};

template <int kCount, bool kAccumulate, class From, class To>
__device__ __forceinline__ void CopyPack(const From* __restrict__ from, To* __restrict__ to) {
  const Pack<From, kCount> source = LoadPack<kCount>(from);
  float values[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = source[i];
  if constexpr (kAccumulate) {
    const Pack<To, kCount> sum = LoadPack<kCount>(static_cast<const To*>(to));
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += sum[i];
  }
  StorePack(to, values);
}

// One pack of one row a thread; the elements after a row's last whole pack one by one.
template <int kCount, bool kAccumulate, class From, class To>
__global__ void CopyRowsKernel(Rows<From, To> args) {
  const int64_t packs = (args.count + kCount - 1) / kCount;
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = item / packs;
  if (row >= args.rows) return;
  int64_t i = (item - row * packs) * kCount;
  const From* from = args.source + row * args.source_stride;
  To* to = args.destination + row * args.destination_stride;
  if (i + kCount <= args.count) {
    CopyPack<kCount, kAccumulate>(from + i, to + i);
  } else {
    for (; i < args.count; ++i) CopyPack<1, kAccumulate>(from + i, to + i);
  }
}

template <bool kAccumulate, int kPack, class From, class To>
void Copy(const Rows<From, To>& rows, bool fit, Stream stream) {
  const int64_t items = rows.rows * (fit ? CeilDiv(rows.count, kPack) : rows.count);
  Launch(fit ? CopyRowsKernel<kPack, kAccumulate, From, To> : CopyRowsKernel<1, kAccumulate, From, To>,
         static_cast<unsigned>(CeilDiv(items, kThreads)), kThreads, 0, stream, rows);
}

}  // namespace

void CopyRows(const CopyRowsArgs& args, CudaContext& context) {
  if (args.rows == 0 || args.count == 0) return;
  // Dense on both sides: one long row, whose packs need not end where rows do.
  const bool one_row = args.rows == 1 || (args.source_stride == args.count && args.destination_stride == args.count);
  const int64_t source_stride = one_row ? 0 : args.source_stride;
  const int64_t destination_stride = one_row ? 0 : args.destination_stride;
  WithType(args.source.dtype(), [&](auto from) {
    WithType(args.destination.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      constexpr int kPack = std::max(kPackSize<From>, kPackSize<To>);
      const Rows<From, To> rows{.source = static_cast<const From*>(args.source.raw()),
                                .source_stride = source_stride,
                                .destination = static_cast<To*>(args.destination.raw()),
                                .destination_stride = destination_stride,
                                .rows = one_row ? 1 : args.rows,
                                .count = one_row ? args.rows * args.count : args.count};
      const bool fit =
          PacksFit(args.source, kPack, source_stride) && PacksFit(args.destination, kPack, destination_stride);
      args.accumulate ? Copy<true, kPack>(rows, fit, context.stream) : Copy<false, kPack>(rows, fit, context.stream);
    });
  });
}

}  // namespace shardit::cuda
