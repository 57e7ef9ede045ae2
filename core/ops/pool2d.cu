#include "core/cuda/pack.cuh"
#include "core/ops/pool2d.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

// A block's threads follow each other through one row of pixels, [columns, channels], a pack each.
struct Place {
  int64_t image;
  int row;
  int column;
  int64_t channel;
};

// Where a thread stands in images of `rows` rows; its column may lie beyond the last.
template <int kCount>
__device__ __forceinline__ Place PlaceOf(int rows, int64_t channels) {
  const int packs = static_cast<int>(channels / kCount), item = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const int image = static_cast<int>(blockIdx.x) / rows, column = item / packs;
  return {image, static_cast<int>(blockIdx.x) - image * rows, column, int64_t{item - column * packs} * kCount};
}

template <int kCount>
__device__ __forceinline__ Pack<float, kCount> Filled(float value) {
  Pack<float, kCount> pack;
#pragma unroll
  for (int k = 0; k < kCount; ++k) pack.element[k] = value;
  return pack;
}

template <int kCount>
__device__ __forceinline__ void AddTo(Pack<float, kCount>& sums, const Pack<float, kCount>& values) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) sums.element[k] += values.element[k];
}

template <int kCount>
__global__ void MaxFwdKernel(PoolShape shape, const float* __restrict__ x, float* __restrict__ y,
                             int32_t* __restrict__ winners) {
  const Place place = PlaceOf<kCount>(shape.rows.windows, shape.channels);
  if (place.column >= shape.columns.windows) return;
  const PoolRange rows = shape.rows.PixelsOf(place.row), columns = shape.columns.PixelsOf(place.column);
  const float* const image =
      x + place.image * shape.rows.pixels * shape.columns.pixels * shape.channels + place.channel;
  const int first = rows.begin * shape.columns.pixels + columns.begin;
  Pack<float, kCount> best = LoadPack<kCount>(image + first * shape.channels);
  Pack<int32_t, kCount> winner;
#pragma unroll
  for (int k = 0; k < kCount; ++k) winner.element[k] = first;
  for (int row = rows.begin; row < rows.end; ++row) {
    for (int column = columns.begin; column < columns.end; ++column) {
      const int at = row * shape.columns.pixels + column;
      const Pack<float, kCount> value = LoadPack<kCount>(image + at * shape.channels);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (!(value.element[k] > best.element[k] || value.element[k] != value.element[k])) continue;
        best.element[k] = value.element[k];
        winner.element[k] = at;
      }
    }
  }
  const int64_t to = (int64_t{blockIdx.x} * shape.columns.windows + place.column) * shape.channels + place.channel;
  StorePack(y + to, best);
  if (winners != nullptr) StorePack(winners + to, winner);
}

template <int kCount>
__global__ void AverageFwdKernel(PoolShape shape, const float* __restrict__ x, float* __restrict__ y) {
  const Place place = PlaceOf<kCount>(shape.rows.windows, shape.channels);
  if (place.column >= shape.columns.windows) return;
  const PoolRange rows = shape.rows.PixelsOf(place.row), columns = shape.columns.PixelsOf(place.column);
  const float* const image =
      x + place.image * shape.rows.pixels * shape.columns.pixels * shape.channels + place.channel;
  Pack<float, kCount> sums = Filled<kCount>(0.0f);
  for (int row = rows.begin; row < rows.end; ++row) {
    Pack<float, kCount> row_sums = Filled<kCount>(0.0f);
    for (int column = columns.begin; column < columns.end; ++column) {
      AddTo(row_sums, LoadPack<kCount>(image + (row * shape.columns.pixels + column) * shape.channels));
    }
    AddTo(sums, row_sums);
  }
  const float divisor = shape.Divisor(rows, columns);
#pragma unroll
  for (int k = 0; k < kCount; ++k) sums.element[k] /= divisor;
  StorePack(y + (int64_t{blockIdx.x} * shape.columns.windows + place.column) * shape.channels + place.channel, sums);
}

// What a pack of one pixel's channels has from one window, whose pack lies at dy and winners.
template <bool kOfMax, int kCount>
__device__ __forceinline__ Pack<float, kCount> FromWindow(const float* dy, const int32_t* winners, int at,
                                                          float divisor) {
  Pack<float, kCount> grad = LoadPack<kCount>(dy);
  if constexpr (kOfMax) {
    const Pack<int32_t, kCount> winner = LoadPack<kCount>(winners);
#pragma unroll
    for (int k = 0; k < kCount; ++k) grad.element[k] = winner.element[k] == at ? grad.element[k] : 0.0f;
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) grad.element[k] /= divisor;
  }
  return grad;
}

template <bool kOfMax, int kCount>
__global__ void BwdKernel(PoolShape shape, const float* __restrict__ dy, const int32_t* __restrict__ winners,
                          float* __restrict__ dx, bool accumulate) {
  const Place place = PlaceOf<kCount>(shape.rows.pixels, shape.channels);
  if (place.column >= shape.columns.pixels) return;
  const PoolRange rows = shape.rows.WindowsOver(place.row), columns = shape.columns.WindowsOver(place.column);
  const int at = place.row * shape.columns.pixels + place.column;
  Pack<float, kCount> sums = Filled<kCount>(0.0f);
  for (int i = rows.begin; i < rows.end; ++i) {
    for (int j = columns.begin; j < columns.end; ++j) {
      const int64_t window = (place.image * shape.rows.windows + i) * shape.columns.windows + j;
      const int64_t from = window * shape.channels + place.channel;
      const float divisor = kOfMax ? 1.0f : shape.Divisor(shape.rows.PixelsOf(i), shape.columns.PixelsOf(j));
      AddTo(sums, FromWindow<kOfMax, kCount>(dy + from, kOfMax ? winners + from : nullptr, at, divisor));
    }
  }
  float* const to = dx + (int64_t{blockIdx.x} * shape.columns.pixels + place.column) * shape.channels + place.channel;
  if (accumulate) AddTo(sums, LoadPack<kCount>(static_cast<const float*>(to)));
  StorePack(to, sums);
}

// Blocks for rows of pixels, [pixels, channels] each, in packs of `pack`.
dim3 GridOf(int64_t rows, int64_t pixels, int64_t channels, int pack) {
  return {static_cast<unsigned>(rows), static_cast<unsigned>(CeilDiv(pixels * (channels / pack), kThreads))};
}

constexpr int kPack = kPackSize<float>;

// Whether a pixel's channels are whole packs at all operands; null ones do not count.
bool Packed(const PoolShape& shape, const float* a, const float* b, const int32_t* winners) {
  return shape.channels % kPack == 0 && PacksFit(a, kPack) && PacksFit(b, kPack) &&
         PacksFit(ConstElements(winners, DType::kI32), kPack);
}

}  // namespace

void Pool2dFwd(const Pool2dFwdArgs& args, CudaContext& context) {
  const PoolShape& shape = args.shape;
  const bool packed = Packed(shape, args.x, args.y, args.winners);
  const dim3 grid =
      GridOf(shape.images * shape.rows.windows, shape.columns.windows, shape.channels, packed ? kPack : 1);
  if (shape.kind == PoolKind::kMax) {
    Launch(packed ? MaxFwdKernel<kPack> : MaxFwdKernel<1>, grid, kThreads, 0, context.stream, shape, args.x, args.y,
           args.winners);
  } else {
    Launch(packed ? AverageFwdKernel<kPack> : AverageFwdKernel<1>, grid, kThreads, 0, context.stream, shape, args.x,
           args.y);
  }
}

void Pool2dBwd(const Pool2dBwdArgs& args, CudaContext& context) {
  const PoolShape& shape = args.shape;
  const bool of_max = shape.kind == PoolKind::kMax, packed = Packed(shape, args.dy, args.dx, args.winners);
  const dim3 grid = GridOf(shape.images * shape.rows.pixels, shape.columns.pixels, shape.channels, packed ? kPack : 1);
  const auto kernel = packed ? (of_max ? BwdKernel<true, kPack> : BwdKernel<false, kPack>)
                             : (of_max ? BwdKernel<true, 1> : BwdKernel<false, 1>);
  Launch(kernel, grid, kThreads, 0, context.stream, shape, args.dy, args.winners, args.dx, args.accumulate);
}

}  // namespace shardit::cuda
