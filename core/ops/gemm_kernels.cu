#include "core/base/math.h"
#include "core/cuda/pack.cuh"
#include "core/ops/gemm_kernels.h"

namespace shardit::cuda {
namespace {

// gelu(x) = x s and its derivative, with s = sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): the tanh form, since
// (1 + tanh(y)) / 2 = sigmoid(2 y).
struct GeluSigmoid {
  float s;
  float rest;  // 1 - s, to full relative accuracy
};
__device__ __forceinline__ GeluSigmoid SigmoidOfGelu(float x) {
  const float slope = __fmaf_rn(x * x, 0.07135481627159841f, 1.5957691216057308f);
  // Limited, so that neither factor becomes infinite or 0; NaN is lost here and comes back with the factor x.
  const float e = expf(-fminf(fmaxf(x * slope, -86.0f), 86.0f));
  const float s = 1.0f / (1.0f + e);
  return {s, e * s};
}
__device__ __forceinline__ float Gelu(float x) { return x * SigmoidOfGelu(x).s; }
__device__ __forceinline__ float GeluGrad(float x) {
  const GeluSigmoid both = SigmoidOfGelu(x);
  const float slope = __fmaf_rn(x * x, 0.21406444881479522f, 1.5957691216057308f);  // d/dx of the sigmoid's argument
  return __fmaf_rn(x * slope * both.rest, both.s, both.s);
}

template <class C, class X>
struct Finish {
  int64_t rows, columns;
  const float* sums;
  int64_t ldsums;
  C* c;
  int64_t ldc;
  const X* bias;
  X* aux;
  int64_t ldaux;
};

template <int kPack, GemmEpilogue kEpilogue, bool kAccumulate, class C, class X>
__device__ __forceinline__ void FinishPack(const Finish<C, X>& args, int64_t row, int64_t column) {
  C* to = args.c + row * args.ldc + column;
  const Pack<float, kPack> sums = LoadPack<kPack>(args.sums + row * args.ldsums + column);
  float values[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) values[i] = sums[i];
  if constexpr (kEpilogue == GemmEpilogue::kGeluGrad) {
    const Pack<X, kPack> aux = LoadPack<kPack>(static_cast<const X*>(args.aux + row * args.ldaux + column));
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] *= GeluGrad(aux[i]);
  } else if (args.bias != nullptr) {
    const Pack<X, kPack> bias = LoadPack<kPack>(args.bias + column);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] += bias[i];
  }
  if constexpr (kEpilogue == GemmEpilogue::kBiasGelu) {
    StorePack(args.aux + row * args.ldaux + column, values);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = Gelu(values[i]);
  }
  if constexpr (kAccumulate) {
    const Pack<C, kPack> before = LoadPack<kPack>(static_cast<const C*>(to));
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] += before[i];
  }
  StorePack(to, values);
}

// One pack of one row a thread.
template <int kPack, GemmEpilogue kEpilogue, bool kAccumulate, class C, class X>
__global__ void FinishProductKernel(Finish<C, X> args) {
  const int64_t packs = args.columns / kPack;
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = item / packs;
  if (row >= args.rows) return;
  FinishPack<kPack, kEpilogue, kAccumulate>(args, row, (item - row * packs) * kPack);
}

constexpr int kThreads = 256;

template <GemmEpilogue kEpilogue, bool kAccumulate, class C, class X>
void LaunchFinish(const Finish<C, X>& args, bool fit, Stream stream) {
  constexpr int kPack = kPackSize<X>;
  const int64_t items = args.rows * (fit ? args.columns / kPack : args.columns);
  Launch(fit ? FinishProductKernel<kPack, kEpilogue, kAccumulate, C, X>
             : FinishProductKernel<1, kEpilogue, kAccumulate, C, X>,
         static_cast<unsigned>(CeilDiv(items, kThreads)), kThreads, 0, stream, args);
}

template <class C, class X>
void FinishTyped(const FinishProductArgs& args, Stream stream) {
  const Finish<C, X> finish{.rows = args.rows,
                            .columns = args.columns,
                            .sums = args.sums,
                            .ldsums = args.ldsums,
                            .c = static_cast<C*>(args.c.raw()),
                            .ldc = args.ldc,
                            .bias = static_cast<const X*>(args.bias.raw()),
                            .aux = static_cast<X*>(args.aux.raw()),
                            .ldaux = args.ldaux};
  constexpr int kPack = kPackSize<X>;
  const bool fit = args.columns % kPack == 0 && PacksFit(args.sums, kPack, args.ldsums) &&
                   PacksFit(args.c, kPack, args.ldc) && PacksFit(args.bias, kPack) &&
                   PacksFit(args.aux, kPack, args.ldaux);
  switch (args.epilogue) {
    case GemmEpilogue::kNone:
    case GemmEpilogue::kBias:
      return args.accumulate ? LaunchFinish<GemmEpilogue::kBias, true>(finish, fit, stream)
                             : LaunchFinish<GemmEpilogue::kBias, false>(finish, fit, stream);
    case GemmEpilogue::kBiasGelu:
      return LaunchFinish<GemmEpilogue::kBiasGelu, false>(finish, fit, stream);
    case GemmEpilogue::kGeluGrad:
      return LaunchFinish<GemmEpilogue::kGeluGrad, false>(finish, fit, stream);
  }
}

// A matrix by the distance between its elements along each axis.
template <class T>
struct Strided {
  const T* data;
  int64_t row_step, column_step;
};

constexpr int kTile = 32;
constexpr int kRowsAThread = 4;
constexpr int kThreadRows = kTile / kRowsAThread;

// Copies the kTile x kTile elements from (row, column) on, zeros beyond the edges.
template <class T>
__device__ __forceinline__ void LoadTile(const Strided<T>& from, int64_t rows, int64_t columns, int64_t row,
                                         int64_t column, float (&tile)[kTile][kTile + 1]) {
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += kThreadRows) {
    const int j = static_cast<int>(threadIdx.x);
    const bool inside = row + i < rows && column + j < columns;
    tile[i][j] = inside ? ToFloat(from.data[(row + i) * from.row_step + (column + j) * from.column_step]) : 0.0f;
  }
}

// A tile of C a block: blockIdx.x along the rows, blockIdx.y along the columns.
template <class T, class C>
__global__ void SimpleProductKernel(Strided<T> a, Strided<T> b, C* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                                    bool accumulate) {
  __shared__ float a_tile[kTile][kTile + 1], b_tile[kTile][kTile + 1];
  const int64_t row = int64_t{blockIdx.x} * kTile, column = int64_t{blockIdx.y} * kTile;
  float sums[kRowsAThread] = {};
  for (int64_t kk = 0; kk < k; kk += kTile) {
    LoadTile(a, m, k, row, kk, a_tile);
    LoadTile(b, k, n, kk, column, b_tile);
    __syncthreads();
    for (int i = 0; i < kTile; ++i) {
#pragma unroll
      for (int r = 0; r < kRowsAThread; ++r) {
        sums[r] = __fmaf_rn(a_tile[threadIdx.y + r * kThreadRows][i], b_tile[i][threadIdx.x], sums[r]);
      }
    }
    __syncthreads();
  }
  const int64_t j = column + threadIdx.x;
#pragma unroll
  for (int r = 0; r < kRowsAThread; ++r) {
    const int64_t i = row + threadIdx.y + r * kThreadRows;
    if (i >= m || j >= n) continue;
    C* to = c + i * ldc + j;
    *to = FromFloat<C>(accumulate ? ToFloat(*to) + sums[r] : sums[r]);
  }
}

}  // namespace

void FinishProduct(const FinishProductArgs& args, CudaContext& context) {
  if (args.rows == 0 || args.columns == 0) return;
  const DType x = args.aux.raw() != nullptr ? args.aux.dtype() : args.bias.dtype();
  WithType(args.c.dtype(), [&](auto c_type) {
    WithType(x, [&](auto x_type) {
      using C = decltype(c_type);
      using X = decltype(x_type);
      // fp32 operands make fp32 results.
      if constexpr (sizeof(X) <= sizeof(C)) FinishTyped<C, X>(args, context.stream);
    });
  });
}

void SimpleProduct(const GemmArgs& args, CudaContext& context) {
  WithType(args.a.dtype(), [&](auto type) {
    WithType(args.c.dtype(), [&](auto c_type) {
      using T = decltype(type);
      using C = decltype(c_type);
      const auto matrix = [](ConstElements data, int64_t ld, bool transposed) {
        return Strided<T>{static_cast<const T*>(data.raw()), transposed ? 1 : ld, transposed ? ld : 1};
      };
      const dim3 grid(static_cast<unsigned>(CeilDiv(args.m, kTile)), static_cast<unsigned>(CeilDiv(args.n, kTile)));
      Launch(SimpleProductKernel<T, C>, grid, dim3(kTile, kThreadRows), 0, context.stream,
             matrix(args.a, args.lda, args.form == GemmForm::kTN), matrix(args.b, args.ldb, args.form == GemmForm::kNT),
             static_cast<C*>(args.c.raw()), args.ldc, args.m, args.n, args.k, args.accumulate);
    });
  });
}

}  // namespace shardit::cuda
