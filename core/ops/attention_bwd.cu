// Backward attention in bf16, without sums in arrival order: every gradient has one owner, who adds its terms in order.
//
// Strips of 16 keys own dk and dv and pass over all queries; strips of queries own dq and pass over all keys. The
// scores and dP are therefore computed twice, 7 products instead of 5. The alternatives for 5, at 256 tokens of 72 and
// in cycles of an H100 multiprocessor (mma.sync about 2500 flops a cycle, shared memory 128 bytes, its part of device
// memory 13 bytes), for one (batch, head):
//   - dS handed from the owners of keys to those of queries through shared memory: products 18.6k, but shared memory
//     26k for strips' operands and dS, with a barrier a tile and all warps in the same phase;
//   - dq in fp32 in shared memory, each key strip adding in turn: 74 KB more, and the warps wait for each other;
//   - this: products 26k, shared memory 26k in another pipe, no barrier after the loads. Device memory is 23k and
//     overlaps: queries are used as they arrive.
// Up to the tokens that shared memory holds (384 of 64 or 72 on an H100, 256 on an A100) one kernel does everything and
// reads each operand once; warps of odd number do their queries' strips while the others are at keys, since the first
// strain the tensor cores and the second shared memory. Beyond, one kernel for dk and dv and one for dq let tiles pass
// through a ring; delta and the log-sum-exp come from a small kernel before them.
#include <algorithm>
#include <limits>

#include "core/base/math.h"
#include "core/ops/attention_paths.cuh"
#include "core/ops/attention_tile.cuh"

namespace shardit::cuda::attention {
namespace {

constexpr int kMostWarps = 8;  // where everything is resident
constexpr int kTileWarps = 4;  // where tiles pass by
constexpr int kAhead = 2;      // tiles on their way while one is computed with
constexpr int kRingRows = (kAhead + 1) * kTileRows;

struct BwdParams {
  Heads<const Bf16> q, k, v, out, d_out;
  Heads<Bf16> dq, dk, dv;
  const float* lse;
  float* stats;    // per (batch, head): stats_rows of lse / ln 2, then as many of delta; null where all is resident
  int stats_rows;  // queries in whole tiles
  int heads, queries, keys;
  int parts;  // blocks that share a (batch, head)
  float scale;
  float scale_log2;  // scores to powers of two
};

// What a query row needs besides its elements. Rows that do not exist get weights of 2^-infinity = 0.
struct RowStats {
  float lse_log2 = INFINITY;
  float delta = 0.0f;
};

// A group's four lanes ask for the same row.
template <int kHeadDim>
__device__ __forceinline__ RowStats StatsOf(const BwdParams& p, int item, int row) {
  RowStats stats;
  float sum = 0.0f;
  if (row < p.queries) {
    const int batch = item / p.heads, head = item % p.heads;
    const Bf16* out = p.out.At(batch, head) + row * p.out.row_stride;
    const Bf16* d_out = p.d_out.At(batch, head) + row * p.d_out.row_stride;
#pragma unroll
    for (int chunk = 0; chunk < kHeadDim / 8; chunk += 4) {
      if (chunk + Place() >= kHeadDim / 8) break;
      const uint4 x = *reinterpret_cast<const uint4*>(out + (chunk + Place()) * 8);
      const uint4 y = *reinterpret_cast<const uint4*>(d_out + (chunk + Place()) * 8);
      const uint32_t x_words[4] = {x.x, x.y, x.z, x.w}, y_words[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 a = UnpackPair(x_words[j]), b = UnpackPair(y_words[j]);
        sum = __fmaf_rn(a.x, b.x, sum);
        sum = __fmaf_rn(a.y, b.y, sum);
      }
    }
    stats.lse_log2 = p.lse[static_cast<int64_t>(item) * p.queries + row] * kLog2E;
  }
  stats.delta = SumOfGroup(sum);
  return stats;
}

// A strip of 16 keys: rows of the scores' transpose.
template <int kHeadDim>
struct KeyRows {
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kColumns = kHeadDim <= 72 ? 4 : 2;
  static constexpr int kStepQueries = 8 * kColumns;

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[0][chunk][e] = dv[0][chunk][e] = 0.0f;
    }
  }

  // The next queries; those that do not exist are zeros of weight 0.
  __device__ __forceinline__ void Step(const Bf16* queries, const Bf16* d_out, const float* lse_log2,
                                       const float* delta, float scale_log2) {
    float weights[1][kColumns][4], grads[1][kColumns][4];
    MultiplyRows(weights, k, queries);
    MultiplyRows(grads, v, d_out);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float2 shift = *reinterpret_cast<const float2*>(lse_log2 + 8 * j + 2 * Place());
      const float2 mean = *reinterpret_cast<const float2*>(delta + 8 * j + 2 * Place());
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& weight = weights[0][j][e];
        weight = Exp2Approximate(__fmaf_rn(weight, scale_log2, -(e % 2 == 0 ? shift.x : shift.y)));
        grads[0][j][e] = weight * (grads[0][j][e] - (e % 2 == 0 ? mean.x : mean.y));
      }
    }
    uint32_t packed[1][kColumns / 2][4];
    PackWeights(weights, packed);
    MultiplyColumns<kHeadDim>(dv, packed, d_out);
    PackWeights(grads, packed);
    MultiplyColumns<kHeadDim>(dk, packed, queries);
  }

  __device__ __forceinline__ void Store(const BwdParams& p, int item, int first) const {
    const int batch = item / p.heads, head = item % p.heads, valid = p.keys - first;
    const float one[2] = {1.0f, 1.0f}, scale[2] = {p.scale, p.scale};
    StoreStrip(dv[0], one, p.dv.At(batch, head) + first * p.dv.row_stride, p.dv.row_stride, valid);
    StoreStrip(dk[0], scale, p.dk.At(batch, head) + first * p.dk.row_stride, p.dk.row_stride, valid);
  }

  Strip<kHeadDim> k[1], v[1];
  float dk[1][kChunks][4], dv[1][kChunks][4];
};

// Strips of 16 queries.
template <int kHeadDim>
struct QueryRows {
  static constexpr int kStrips = kHeadDim <= 72 ? 2 : 1;
  static constexpr int kRows = kStrips * kStripRows;
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kColumns = 2;
  static constexpr int kStepKeys = 8 * kColumns;

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        dq[s][chunk][0] = dq[s][chunk][1] = dq[s][chunk][2] = dq[s][chunk][3] = 0.0f;
      }
    }
  }

  // Of the strips' rows, from arrays in which theirs come first.
  __device__ __forceinline__ void LoadStats(const float* of_lse_log2, const float* of_delta) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        lse_log2[s][half] = of_lse_log2[s * kStripRows + 8 * half + Group()];
        delta[s][half] = of_delta[s * kStripRows + 8 * half + Group()];
      }
    }
  }

  // The next keys, of which `valid` >= 1 exist.
  __device__ __forceinline__ void Step(const Bf16* keys, const Bf16* values, int valid, float scale_log2) {
    float scores[kStrips][kColumns][4], grads[kStrips][kColumns][4];
    MultiplyRows(scores, q, keys);
    MultiplyRows(grads, d_out, values);
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float weight = Exp2Approximate(__fmaf_rn(scores[s][j][e], scale_log2, -lse_log2[s][e / 2]));
          grads[s][j][e] = weight * (grads[s][j][e] - delta[s][e / 2]);
        }
      }
    }
    if (valid < kStepKeys) MaskColumns(grads, valid, 0.0f);
    uint32_t packed[kStrips][kColumns / 2][4];
    PackWeights(grads, packed);
    MultiplyColumns<kHeadDim>(dq, packed, keys);
  }

  __device__ __forceinline__ void Store(const BwdParams& p, int item, int first) const {
    const int batch = item / p.heads, head = item % p.heads;
    Bf16* rows = p.dq.At(batch, head) + first * p.dq.row_stride;
    const float scale[2] = {p.scale, p.scale};
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      StoreStrip(dq[s], scale, rows + s * kStripRows * p.dq.row_stride, p.dq.row_stride,
                 p.queries - first - s * kStripRows);
    }
  }

  Strip<kHeadDim> q[kStrips], d_out[kStrips];
  float dq[kStrips][kChunks][4];
  float lse_log2[kStrips][2], delta[kStrips][2];
};

template <int kHeadDim>
__device__ __forceinline__ TilePairs<kHeadDim> QueryPairs(const BwdParams& p, int item, Bf16* shared, int ring_rows) {
  const int batch = item / p.heads, head = item % p.heads;
  return {
      shared, ring_rows, p.queries, p.q.At(batch, head), p.q.row_stride, p.d_out.At(batch, head), p.d_out.row_stride};
}

template <int kHeadDim>
__device__ __forceinline__ TilePairs<kHeadDim> KeyPairs(const BwdParams& p, int item, Bf16* shared, int ring_rows) {
  const int batch = item / p.heads, head = item % p.heads;
  return {shared, ring_rows, p.keys, p.k.At(batch, head), p.k.row_stride, p.v.At(batch, head), p.v.row_stride};
}

// Where everything lies when all of a (batch, head) is in shared memory. Also the host's measure of it.
template <int kHeadDim>
struct Resident {
  __host__ __device__ Resident(int queries, int keys)
      : query_rows((queries + kStepRows - 1) / kStepRows * kStepRows),
        key_rows((keys + kStepRows - 1) / kStepRows * kStepRows) {}
  static constexpr int kPitch = RowLayout<kHeadDim>::kPitch;

  __host__ __device__ int elements() const { return 2 * (query_rows + key_rows) * kPitch; }
  __host__ __device__ int64_t bytes() const {
    return int64_t{2} * elements() + int64_t{2} * query_rows * static_cast<int64_t>(sizeof(float));
  }
  __device__ Bf16* queries(Bf16* shared) const { return shared; }
  __device__ Bf16* d_out(Bf16* shared) const { return shared + query_rows * kPitch; }
  __device__ Bf16* keys(Bf16* shared) const { return shared + 2 * query_rows * kPitch; }
  __device__ Bf16* values(Bf16* shared) const { return shared + (2 * query_rows + key_rows) * kPitch; }
  __device__ float* lse_log2(Bf16* shared) const { return reinterpret_cast<float*>(shared + elements()); }
  __device__ float* delta(Bf16* shared) const { return lse_log2(shared) + query_rows; }

  int query_rows, key_rows;
};

// The keys' strip of one warp over all resident queries. While they are `loading`, all warps of the block call this,
// and those without a strip only wait.
template <int kHeadDim, bool kLoading>
__device__ __forceinline__ void PassOverQueries(const BwdParams& p, int item, int first, Bf16* shared) {
  const Resident<kHeadDim> at(p.queries, p.keys);
  constexpr int kPitch = RowLayout<kHeadDim>::kPitch;
  const bool active = first < p.keys;
  KeyRows<kHeadDim> rows;
  if (active) {
    rows.Clear();
    if constexpr (kLoading) {
      const int batch = item / p.heads, head = item % p.heads;
      rows.k[0].Load(p.k.At(batch, head) + first * p.k.row_stride, p.k.row_stride, p.keys - first);
      rows.v[0].Load(p.v.At(batch, head) + first * p.v.row_stride, p.v.row_stride, p.keys - first);
    } else {
      rows.k[0].LoadShared(at.keys(shared) + first * kPitch);
      rows.v[0].LoadShared(at.values(shared) + first * kPitch);
    }
  }
#pragma unroll 1
  for (int query = 0; query < p.queries; query += KeyRows<kHeadDim>::kStepQueries) {
    if (kLoading && query % kTileRows == 0) {
      // Groups still on their way: later tiles of queries, and then those of keys.
      WaitForCopies((p.queries - 1) / kTileRows - query / kTileRows + (p.keys - 1) / kTileRows + 1);
      __syncthreads();
    }
    if (active) {
      rows.Step(at.queries(shared) + query * kPitch, at.d_out(shared) + query * kPitch, at.lse_log2(shared) + query,
                at.delta(shared) + query, p.scale_log2);
    }
  }
  if (active) rows.Store(p, item, first);
}

// The queries' strips of one warp over all resident keys.
template <int kHeadDim>
__device__ __forceinline__ void PassOverKeys(const BwdParams& p, int item, int first, Bf16* shared) {
  const Resident<kHeadDim> at(p.queries, p.keys);
  constexpr int kPitch = RowLayout<kHeadDim>::kPitch;
  QueryRows<kHeadDim> rows;
  rows.Clear();
#pragma unroll
  for (int s = 0; s < QueryRows<kHeadDim>::kStrips; ++s) {
    rows.q[s].LoadShared(at.queries(shared) + (first + s * kStripRows) * kPitch);
    rows.d_out[s].LoadShared(at.d_out(shared) + (first + s * kStripRows) * kPitch);
  }
  rows.LoadStats(at.lse_log2(shared) + first, at.delta(shared) + first);
#pragma unroll 1
  for (int key = 0; key < p.keys; key += QueryRows<kHeadDim>::kStepKeys) {
    rows.Step(at.keys(shared) + key * kPitch, at.values(shared) + key * kPitch, p.keys - key, p.scale_log2);
  }
  rows.Store(p, item, first);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kMostWarps* kWarp, 1) ResidentBwdKernel(const BwdParams p) {
  SHARDIT_DYNAMIC_SHARED(Bf16, shared);
  const int item = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) % p.parts;
  const int warps = static_cast<int>(blockDim.x) / kWarp, warp = WarpIndex();
  const Resident<kHeadDim> at(p.queries, p.keys);
  const TilePairs<kHeadDim> queries = QueryPairs<kHeadDim>(p, item, at.queries(shared), at.query_rows);
  const TilePairs<kHeadDim> keys = KeyPairs<kHeadDim>(p, item, at.keys(shared), at.key_rows);
  for (int tile = 0; tile * kTileRows < p.queries; ++tile) queries.Load(tile);
  for (int tile = 0; tile * kTileRows < p.keys; ++tile) keys.Load(tile);
  for (int row = warp * 8; row < at.query_rows; row += warps * 8) {
    const RowStats stats = StatsOf<kHeadDim>(p, item, row + Group());
    if (Place() == 0) {
      at.lse_log2(shared)[row + Group()] = stats.lse_log2;
      at.delta(shared)[row + Group()] = stats.delta;
    }
  }

  PassOverQueries<kHeadDim, true>(p, item, (part * warps + warp) * kStripRows, shared);
  CopyWait<0>();
  __syncthreads();
  constexpr int kQueryRows = QueryRows<kHeadDim>::kRows;
#pragma unroll 1
  for (int turn = 0; turn < 2; ++turn) {
    if ((turn + warp) % 2 != 0) {
#pragma unroll 1
      for (int first = (warp * p.parts + part) * kQueryRows; first < p.queries; first += p.parts * warps * kQueryRows) {
        PassOverKeys<kHeadDim>(p, item, first, shared);
      }
    } else {
#pragma unroll 1
      for (int first = ((p.parts + part) * warps + warp) * kStripRows; first < p.keys;
           first += p.parts * warps * kStripRows) {
        PassOverQueries<kHeadDim, false>(p, item, first, shared);
      }
    }
  }
}

// One group of lanes a row of stats.
template <int kHeadDim>
__global__ void __launch_bounds__(kTileWarps* kWarp) StatsKernel(const BwdParams p) {
  const int64_t n = int64_t{blockIdx.x} * (blockDim.x / 4) + threadIdx.x / 4;  // stats_rows divide by a block's rows
  const int item = static_cast<int>(n / p.stats_rows), row = static_cast<int>(n % p.stats_rows);
  const RowStats stats = StatsOf<kHeadDim>(p, item, row);
  if (Place() != 0) return;
  float* to = p.stats + int64_t{2} * item * p.stats_rows + row;
  to[0] = stats.lse_log2;
  to[p.stats_rows] = stats.delta;
}

// Tiles of queries pass by strips of keys.
template <int kHeadDim>
__global__ void __launch_bounds__(kTileWarps* kWarp, 2) KeysKernel(const BwdParams p) {
  SHARDIT_DYNAMIC_SHARED(Bf16, shared);
  constexpr int kPitch = RowLayout<kHeadDim>::kPitch;
  const int item = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) % p.parts;
  const int batch = item / p.heads, head = item % p.heads;
  const int first = (part * kTileWarps + WarpIndex()) * kStripRows;
  Bf16* const d_out = shared + kRingRows * kPitch;
  float* const lse_log2 = reinterpret_cast<float*>(d_out + kRingRows * kPitch);
  float* const delta = lse_log2 + kRingRows;
  const TilePairs<kHeadDim> queries = QueryPairs<kHeadDim>(p, item, shared, kRingRows);
  const auto load = [&](int tile) {
    constexpr int kPieces = kTileRows / 4;  // of 16 bytes
    const int n = static_cast<int>(threadIdx.x), begin = tile * kTileRows;
    if (begin < p.queries && n < 2 * kPieces) {
      const float* from = p.stats + (int64_t{2} * item + n / kPieces) * p.stats_rows + begin;
      CopyAsync16((n < kPieces ? lse_log2 : delta) + begin % kRingRows + n % kPieces * 4, from + n % kPieces * 4);
    }
    queries.Load(tile);
  };
  for (int tile = 0; tile < kAhead; ++tile) load(tile);

  const bool active = first < p.keys;
  KeyRows<kHeadDim> rows;
  if (active) {
    rows.Clear();
    rows.k[0].Load(p.k.At(batch, head) + first * p.k.row_stride, p.k.row_stride, p.keys - first);
    rows.v[0].Load(p.v.At(batch, head) + first * p.v.row_stride, p.v.row_stride, p.keys - first);
  }
  int at = 0;  // row in the ring
#pragma unroll 1
  for (int query = 0; query < p.queries; query += KeyRows<kHeadDim>::kStepQueries) {
    if (query % kTileRows == 0) {
      CopyWait<kAhead - 1>();
      __syncthreads();
      load(query / kTileRows + kAhead);
    }
    if (active) rows.Step(shared + at * kPitch, d_out + at * kPitch, lse_log2 + at, delta + at, p.scale_log2);
    at += KeyRows<kHeadDim>::kStepQueries;
    if (at == kRingRows) at = 0;
  }
  if (active) rows.Store(p, item, first);
}

// Tiles of keys pass by strips of queries.
template <int kHeadDim>
__global__ void __launch_bounds__(kTileWarps* kWarp, 2) QueriesKernel(const BwdParams p) {
  SHARDIT_DYNAMIC_SHARED(Bf16, shared);
  using Rows = QueryRows<kHeadDim>;
  constexpr int kPitch = RowLayout<kHeadDim>::kPitch;
  const int item = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) % p.parts;
  const int batch = item / p.heads, head = item % p.heads;
  const int first = (part * kTileWarps + WarpIndex()) * Rows::kRows;
  const TilePairs<kHeadDim> keys = KeyPairs<kHeadDim>(p, item, shared, kRingRows);
  for (int tile = 0; tile < kAhead; ++tile) keys.Load(tile);

  const bool active = first < p.queries;
  Rows rows;
  if (active) {
    rows.Clear();
#pragma unroll
    for (int s = 0; s < Rows::kStrips; ++s) {
      const int row = first + s * kStripRows;
      rows.q[s].Load(p.q.At(batch, head) + row * p.q.row_stride, p.q.row_stride, p.queries - row);
      rows.d_out[s].Load(p.d_out.At(batch, head) + row * p.d_out.row_stride, p.d_out.row_stride, p.queries - row);
    }
    const float* stats = p.stats + int64_t{2} * item * p.stats_rows + first;
    rows.LoadStats(stats, stats + p.stats_rows);
  }
  int at = 0;  // row in the ring
#pragma unroll 1
  for (int key = 0; key < p.keys; key += Rows::kStepKeys) {
    if (key % kTileRows == 0) {
      CopyWait<kAhead - 1>();
      __syncthreads();
      keys.Load(key / kTileRows + kAhead);
    }
    if (active) rows.Step(shared + at * kPitch, shared + (kRingRows + at) * kPitch, p.keys - key, p.scale_log2);
    at += Rows::kStepKeys;
    if (at == kRingRows) at = 0;
  }
  if (active) rows.Store(p, item, first);
}

BwdParams ParamsOf(const AttentionBwdArgs& args) {
  const AttentionShape& shape = args.shape;
  return {.q = InKernel<Bf16>(args.q),
          .k = InKernel<Bf16>(args.k),
          .v = InKernel<Bf16>(args.v),
          .out = InKernel<Bf16>(args.out),
          .d_out = InKernel<Bf16>(args.d_out),
          .dq = InKernel<Bf16>(args.dq),
          .dk = InKernel<Bf16>(args.dk),
          .dv = InKernel<Bf16>(args.dv),
          .lse = args.lse,
          .heads = static_cast<int>(shape.heads),
          .queries = static_cast<int>(shape.queries),
          .keys = static_cast<int>(shape.keys),
          .parts = 1,
          .scale = shape.scale,
          .scale_log2 = shape.scale * kLog2E};
}

template <class Kernel>
void LaunchBwd(Kernel kernel, int64_t blocks, int64_t warps, int64_t bytes, const BwdParams& params,
               CudaContext& context) {
  CHECK_LE(blocks, std::numeric_limits<int>::max()) << "[Attention] too many blocks";
  if (bytes > 0) AllowManyShared(kernel, bytes);
  Launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(warps * kWarp), static_cast<size_t>(bytes),
         context.stream, params);
}

// False, and nothing done, where a block may not have the rings' shared memory.
template <int kHeadDim>
bool BwdByTiles(const AttentionBwdArgs& args, CudaContext& context) {
  const int64_t ring = RingBytes<kHeadDim>(kRingRows), stats_ring = 2 * kRingRows * static_cast<int64_t>(sizeof(float));
  if (ring + stats_ring > SharedLimit(context)) return false;
  const AttentionShape& shape = args.shape;
  const int64_t items = shape.batch * shape.heads, stats_rows = RoundUp(shape.queries, kTileRows);
  BwdParams params = ParamsOf(args);
  params.stats_rows = static_cast<int>(stats_rows);
  params.stats =
      static_cast<float*>(context.scratch->Get(2 * items * stats_rows * static_cast<int64_t>(sizeof(float))));
  LaunchBwd(StatsKernel<kHeadDim>, items * stats_rows / (kTileWarps * kWarp / 4), kTileWarps, 0, params, context);

  const int64_t key_parts = CeilDiv(shape.keys, kTileWarps * kStripRows);
  const int64_t query_parts = CeilDiv(shape.queries, kTileWarps * QueryRows<kHeadDim>::kRows);
  params.parts = static_cast<int>(key_parts);
  LaunchBwd(KeysKernel<kHeadDim>, items * key_parts, kTileWarps, ring + stats_ring, params, context);
  params.parts = static_cast<int>(query_parts);
  LaunchBwd(QueriesKernel<kHeadDim>, items * query_parts, kTileWarps, ring, params, context);
  return true;
}

template <int kHeadDim>
bool ChooseBwd(const AttentionBwdArgs& args, CudaContext& context) {
  const AttentionShape& shape = args.shape;
  const int64_t longest = std::max(shape.queries, shape.keys), limit = SharedLimit(context);
  if (longest * RowLayout<kHeadDim>::kPitch * 2 > limit) return BwdByTiles<kHeadDim>(args, context);
  const Resident<kHeadDim> all(static_cast<int>(shape.queries), static_cast<int>(shape.keys));
  if (all.bytes() > limit) return BwdByTiles<kHeadDim>(args, context);
  // A warp takes two strips of keys and one of queries, or where there are multiprocessors to spare, less. Few keys are
  // work for few warps: two blocks then share a multiprocessor.
  const int64_t most_warps = shape.keys <= 2 * kStripRows ? kMostWarps / 2 : kMostWarps;
  const int64_t warps = std::min(CeilDiv(longest, 2 * kStripRows), most_warps);
  const int64_t items = shape.batch * shape.heads, most_parts = CeilDiv(longest, warps * kStripRows);
  BwdParams params = ParamsOf(args);
  params.parts = static_cast<int>(std::clamp<int64_t>(context.multiprocessors / items, 1, most_parts));
  LaunchBwd(ResidentBwdKernel<kHeadDim>, items * params.parts, warps, all.bytes(), params, context);
  return true;
}

}  // namespace

bool TensorBwd(const AttentionBwdArgs& args, CudaContext& context) {
  return WithTensorHeadDim(args.shape.head_dim, [&]<int kHeadDim>() { return ChooseBwd<kHeadDim>(args, context); });
}

}  // namespace shardit::cuda::attention
