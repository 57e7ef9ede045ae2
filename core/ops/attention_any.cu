// Attention for every shape, alignment and type, in fp32 on the ordinary cores: the only way for fp32, and for bf16
// what the tensor core kernels do not take. bf16 operands are converted as they are read; weights are not rounded.
//
// A block owns 64 rows (queries, or for dk and dv keys) and up to 128 columns of the result; larger heads are cut and
// their scores computed once per cut. Tiles of 64 tokens of the other side pass by. Thread (y, x) of 16 x 16 holds the
// scores of rows y + 16 r and columns x + 16 c, and in the result the same rows and the dims x + 16 c. Every sum has
// one owner and one order.
#include <limits>

#include "core/base/math.h"
#include "core/cuda/pack.cuh"
#include "core/ops/attention_paths.cuh"

namespace shardit::cuda::attention {
namespace {

constexpr int kTile = 64;
constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kEach = kTile / kSide;  // rows of a thread, and columns of its scores
constexpr int kDepth = 32;            // of a sum, staged in shared memory at a time
constexpr int kMostDims = 128;        // of the result in one block
constexpr int kColumns = kMostDims / kSide;
// Floats from row to row: 16-byte aligned, and an odd number of those, so that rows lie in different banks.
constexpr int kDepthPitch = kDepth + 4;
constexpr int kTilePitch = kTile + 4;
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

struct Shared {
  alignas(16) float staged[2 * kTile * kDepthPitch];  // two sides of a score, or [kDepth, kMostDims]
  alignas(16) float weights[kTile * kTilePitch];
};
static_assert(2 * kTile * kDepthPitch >= kDepth * kMostDims);

using Scores = float[kEach][kEach];
using Outputs = float[kEach][kColumns];

template <typename T>
struct AnyParams {
  Heads<const T> q, k, v, out, d_out;
  Heads<T> out_or_dq, dk, dv;
  float* lse_out;
  const float* lse;
  float* delta;  // [batch, heads, queries]
  int heads, head_dim, queries, keys;
  int row_tiles, dim_cuts;
  float scale, scale_log2;
};

// Which part of the result a block owns.
struct Place {
  template <typename T>
  __device__ __forceinline__ explicit Place(const AnyParams<T>& p) {
    int64_t n = blockIdx.x;
    first_dim = static_cast<int>(n % p.dim_cuts) * kMostDims;
    n /= p.dim_cuts;
    first_row = static_cast<int>(n % p.row_tiles) * kTile;
    item = static_cast<int>(n / p.row_tiles);
    batch = item / p.heads;
    head = item % p.heads;
    dims = min(kMostDims, p.head_dim - first_dim);
    y = static_cast<int>(threadIdx.x) / kSide;
    x = static_cast<int>(threadIdx.x) % kSide;
  }
  int first_dim, dims, first_row, item, batch, head, y, x;
};

// Rows of one operand, of which `count` exist.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
  int count;
};

template <typename T>
__device__ __forceinline__ Rows<T> RowsFrom(const Heads<const T>& heads, const Place& at, int first, int count) {
  return {heads.At(at.batch, at.head) + first * heads.row_stride, heads.row_stride, count - first};
}

// [rows, width] of an operand from column `first` on, `columns` of which exist; the rest zeros.
template <typename T>
__device__ __forceinline__ void Stage(float* to, int pitch, const Rows<T>& from, int rows, int width, int first,
                                      int columns) {
  for (int n = static_cast<int>(threadIdx.x); n < rows * width; n += kThreads) {
    const int row = n / width, column = n % width;
    const bool inside = row < from.count && column < columns;
    to[row * pitch + column] = inside ? ToFloat(from.data[row * from.stride + first + column]) : 0.0f;
  }
}

// scores[r][c] = a[y + 16 r] . b[x + 16 c].
template <typename T>
__device__ __forceinline__ void MultiplyRows(Scores& scores, const Rows<T>& a, const Rows<T>& b, int head_dim,
                                             const Place& at, Shared& shared) {
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) scores[r][c] = 0.0f;
  }
  float *const left = shared.staged, *const right = shared.staged + kTile * kDepthPitch;
  for (int first = 0; first < head_dim; first += kDepth) {
    __syncthreads();
    Stage(left, kDepthPitch, a, kTile, kDepth, first, head_dim - first);
    Stage(right, kDepthPitch, b, kTile, kDepth, first, head_dim - first);
    __syncthreads();
#pragma unroll 2
    for (int k = 0; k < kDepth; k += 4) {
      float4 u[kEach], w[kEach];
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        u[r] = *reinterpret_cast<const float4*>(left + (at.y + r * kSide) * kDepthPitch + k);
        w[r] = *reinterpret_cast<const float4*>(right + (at.x + r * kSide) * kDepthPitch + k);
      }
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
#pragma unroll
        for (int c = 0; c < kEach; ++c) {
          float& sum = scores[r][c];
          sum = __fmaf_rn(u[r].x, w[c].x, sum);
          sum = __fmaf_rn(u[r].y, w[c].y, sum);
          sum = __fmaf_rn(u[r].z, w[c].z, sum);
          sum = __fmaf_rn(u[r].w, w[c].w, sum);
        }
      }
    }
  }
}

// outputs[r][c] += sum over the tile's tokens s of weights[y + 16 r, s] * rows[s][first_dim + x + 16 c].
template <typename T>
__device__ __forceinline__ void MultiplyColumns(Outputs& outputs, const float (&weights)[kEach][kEach],
                                                const Rows<T>& rows, const Place& at, Shared& shared) {
  __syncthreads();  // the former weights have been read
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      shared.weights[(at.y + r * kSide) * kTilePitch + at.x + c * kSide] = weights[r][c];
    }
  }
  for (int first = 0; first < kTile && first < rows.count; first += kDepth) {
    __syncthreads();
    const Rows<T> part{rows.data + first * rows.stride, rows.stride, rows.count - first};
    Stage(shared.staged, kMostDims, part, kDepth, kMostDims, at.first_dim, at.dims);
    __syncthreads();
    for (int k = 0; k < kDepth; k += 4) {
      float u[kEach][4];
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const float4 w = *reinterpret_cast<const float4*>(shared.weights + (at.y + r * kSide) * kTilePitch + first + k);
        u[r][0] = w.x;
        u[r][1] = w.y;
        u[r][2] = w.z;
        u[r][3] = w.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          if (c * kSide >= at.dims) break;
          const float value = shared.staged[(k + j) * kMostDims + c * kSide + at.x];
#pragma unroll
          for (int r = 0; r < kEach; ++r) outputs[r][c] = __fmaf_rn(u[r][j], value, outputs[r][c]);
        }
      }
    }
  }
}

__device__ __forceinline__ void Clear(Outputs& outputs) {
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) outputs[r][c] = 0.0f;
  }
}

template <typename T>
__device__ __forceinline__ void Store(const Outputs& outputs, const float (&factor)[kEach], const Heads<T>& heads,
                                      int count, const Place& at) {
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = at.first_row + at.y + r * kSide;
    if (row >= count) continue;
    T* to = heads.At(at.batch, at.head) + row * heads.row_stride + at.first_dim;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (at.x + c * kSide < at.dims) to[at.x + c * kSide] = FromFloat<T>(outputs[r][c] * factor[r]);
    }
  }
}

// Over the 16 threads that share rows.
__device__ __forceinline__ float MaxOfRow(float value) {
#pragma unroll
  for (int bit = 1; bit < kSide; bit *= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, bit));
  return value;
}
__device__ __forceinline__ float SumOfRow(float value) {
#pragma unroll
  for (int bit = 1; bit < kSide; bit *= 2) value += __shfl_xor_sync(0xffffffffu, value, bit);
  return value;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) AnyFwdKernel(const AnyParams<T> p) {
  __shared__ Shared shared;
  const Place at(p);
  Outputs outputs;
  Clear(outputs);
  float shift[kEach], sum[kEach];  // powers of two; of the thread's own columns
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    shift[r] = -INFINITY;
    sum[r] = 0.0f;
  }
  const Rows<T> queries = RowsFrom(p.q, at, at.first_row, p.queries);
  for (int key = 0; key < p.keys; key += kTile) {
    Scores scores;
    MultiplyRows(scores, queries, RowsFrom(p.k, at, key, p.keys), p.head_dim, at, shared);
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      float top = -INFINITY;
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        if (key + at.x + c * kSide >= p.keys) scores[r][c] = -INFINITY;
        top = fmaxf(top, scores[r][c]);
      }
      const float moved = fmaxf(shift[r], MaxOfRow(top) * p.scale_log2);
      const float factor = exp2f(shift[r] - moved);
      shift[r] = moved;
      sum[r] *= factor;
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        scores[r][c] = exp2f(__fmaf_rn(scores[r][c], p.scale_log2, -moved));
        sum[r] += scores[r][c];
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) outputs[r][c] *= factor;
    }
    MultiplyColumns(outputs, scores, RowsFrom(p.v, at, key, p.keys), at, shared);
  }
  float factor[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const float total = SumOfRow(sum[r]);
    factor[r] = __frcp_rn(total);
    const int row = at.first_row + at.y + r * kSide;
    if (p.lse_out != nullptr && at.first_dim == 0 && at.x == 0 && row < p.queries) {
      p.lse_out[static_cast<int64_t>(at.item) * p.queries + row] = (shift[r] + log2f(total)) * kLn2;
    }
  }
  Store(outputs, factor, p.out_or_dq, p.queries, at);
}

// One warp a row: delta = d_out . out.
template <typename T>
__global__ void __launch_bounds__(kThreads) AnyDeltaKernel(const AnyParams<T> p, int64_t rows) {
  const int64_t n = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (n >= rows) return;
  const int item = static_cast<int>(n / p.queries), row = static_cast<int>(n % p.queries);
  const int batch = item / p.heads, head = item % p.heads;
  const T* out = p.out.At(batch, head) + row * p.out.row_stride;
  const T* d_out = p.d_out.At(batch, head) + row * p.d_out.row_stride;
  float sum = 0.0f;
  for (int dim = static_cast<int>(threadIdx.x) % 32; dim < p.head_dim; dim += 32) {
    sum = __fmaf_rn(ToFloat(out[dim]), ToFloat(d_out[dim]), sum);
  }
  sum = SumOfRow(sum);
  sum += __shfl_xor_sync(0xffffffffu, sum, 16);
  if (threadIdx.x % 32 == 0) p.delta[n] = sum;
}

// Scores to weights, and dP to dS.
__device__ __forceinline__ void ToWeights(float& score, float& grad, float lse, float delta, float scale_log2,
                                          bool inside) {
  score = inside ? exp2f(__fmaf_rn(score, scale_log2, -lse * kLog2E)) : 0.0f;
  grad = score * (grad - delta);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) AnyKeysKernel(const AnyParams<T> p) {
  __shared__ Shared shared;
  const Place at(p);
  Outputs dk, dv;
  Clear(dk);
  Clear(dv);
  const Rows<T> keys = RowsFrom(p.k, at, at.first_row, p.keys), values = RowsFrom(p.v, at, at.first_row, p.keys);
  for (int query = 0; query < p.queries; query += kTile) {
    const Rows<T> queries = RowsFrom(p.q, at, query, p.queries), d_out = RowsFrom(p.d_out, at, query, p.queries);
    Scores weights, grads;
    MultiplyRows(weights, keys, queries, p.head_dim, at, shared);
    MultiplyRows(grads, values, d_out, p.head_dim, at, shared);
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      const int row = query + at.x + c * kSide;
      const bool inside = row < p.queries;
      const int64_t n = static_cast<int64_t>(at.item) * p.queries + (inside ? row : 0);
      const float lse = p.lse[n], delta = p.delta[n];
#pragma unroll
      for (int r = 0; r < kEach; ++r) ToWeights(weights[r][c], grads[r][c], lse, delta, p.scale_log2, inside);
    }
    MultiplyColumns(dv, weights, d_out, at, shared);
    MultiplyColumns(dk, grads, queries, at, shared);
  }
  const float one[kEach] = {1.0f, 1.0f, 1.0f, 1.0f}, scale[kEach] = {p.scale, p.scale, p.scale, p.scale};
  Store(dv, one, p.dv, p.keys, at);
  Store(dk, scale, p.dk, p.keys, at);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) AnyQueriesKernel(const AnyParams<T> p) {
  __shared__ Shared shared;
  const Place at(p);
  Outputs dq;
  Clear(dq);
  const Rows<T> queries = RowsFrom(p.q, at, at.first_row, p.queries);
  const Rows<T> d_out = RowsFrom(p.d_out, at, at.first_row, p.queries);
  float lse[kEach], delta[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = min(at.first_row + at.y + r * kSide, p.queries - 1);
    lse[r] = p.lse[static_cast<int64_t>(at.item) * p.queries + row];
    delta[r] = p.delta[static_cast<int64_t>(at.item) * p.queries + row];
  }
  for (int key = 0; key < p.keys; key += kTile) {
    const Rows<T> keys = RowsFrom(p.k, at, key, p.keys);
    Scores weights, grads;
    MultiplyRows(weights, queries, keys, p.head_dim, at, shared);
    MultiplyRows(grads, d_out, RowsFrom(p.v, at, key, p.keys), p.head_dim, at, shared);
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        const bool inside = key + at.x + c * kSide < p.keys;
        ToWeights(weights[r][c], grads[r][c], lse[r], delta[r], p.scale_log2, inside);
      }
    }
    MultiplyColumns(dq, grads, keys, at, shared);
  }
  const float scale[kEach] = {p.scale, p.scale, p.scale, p.scale};
  Store(dq, scale, p.out_or_dq, p.queries, at);
}

template <typename T>
AnyParams<T> ParamsOf(const AttentionShape& shape) {
  AnyParams<T> params{};
  params.heads = static_cast<int>(shape.heads);
  params.head_dim = static_cast<int>(shape.head_dim);
  params.queries = static_cast<int>(shape.queries);
  params.keys = static_cast<int>(shape.keys);
  params.scale = shape.scale;
  params.scale_log2 = shape.scale * kLog2E;
  return params;
}

template <typename T>
void LaunchRows(void (*kernel)(AnyParams<T>), AnyParams<T> params, const AttentionShape& shape, int64_t rows,
                CudaContext& context) {
  const int64_t tiles = CeilDiv(rows, kTile), cuts = CeilDiv(shape.head_dim, kMostDims);
  const int64_t blocks = shape.batch * shape.heads * tiles * cuts;
  CHECK_LE(blocks, std::numeric_limits<int>::max()) << "[Attention] too many blocks";
  params.row_tiles = static_cast<int>(tiles);
  params.dim_cuts = static_cast<int>(cuts);
  Launch(kernel, static_cast<unsigned>(blocks), kThreads, 0, context.stream, params);
}

template <typename T>
void Fwd(const AttentionFwdArgs& args, CudaContext& context) {
  AnyParams<T> params = ParamsOf<T>(args.shape);
  params.q = InKernel<T>(args.q);
  params.k = InKernel<T>(args.k);
  params.v = InKernel<T>(args.v);
  params.out_or_dq = InKernel<T>(args.out);
  params.lse_out = args.lse;
  LaunchRows<T>(AnyFwdKernel<T>, params, args.shape, args.shape.queries, context);
}

template <typename T>
void Bwd(const AttentionBwdArgs& args, CudaContext& context) {
  const int64_t rows = args.shape.batch * args.shape.heads * args.shape.queries;
  AnyParams<T> params = ParamsOf<T>(args.shape);
  params.q = InKernel<T>(args.q);
  params.k = InKernel<T>(args.k);
  params.v = InKernel<T>(args.v);
  params.out = InKernel<T>(ConstHeadsView(args.out));
  params.d_out = InKernel<T>(args.d_out);
  params.out_or_dq = InKernel<T>(args.dq);
  params.dk = InKernel<T>(args.dk);
  params.dv = InKernel<T>(args.dv);
  params.lse = args.lse;
  params.delta = static_cast<float*>(context.scratch->Get(rows * static_cast<int64_t>(sizeof(float))));
  Launch(AnyDeltaKernel<T>, static_cast<unsigned>(CeilDiv(rows, kThreads / 32)), kThreads, 0, context.stream, params,
         rows);
  LaunchRows<T>(AnyKeysKernel<T>, params, args.shape, args.shape.keys, context);
  LaunchRows<T>(AnyQueriesKernel<T>, params, args.shape, args.shape.queries, context);
}

}  // namespace

void AnyFwd(const AttentionFwdArgs& args, CudaContext& context) {
  WithType(args.q.data.dtype(), [&](auto element) { Fwd<decltype(element)>(args, context); });
}

void AnyBwd(const AttentionBwdArgs& args, CudaContext& context) {
  WithType(args.q.data.dtype(), [&](auto element) { Bwd<decltype(element)>(args, context); });
}

}  // namespace shardit::cuda::attention
