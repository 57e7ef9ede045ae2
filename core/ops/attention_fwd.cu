// Forward attention in bf16: a warp owns strips of 16 queries, the keys and values of the (batch, head) pass by in
// shared memory, scores live in registers only.
//
// Two strips a warp (one where head_dim is large): every key and value fragment that is read from shared memory serves
// both, which halves that traffic; at head_dim 72 it would otherwise take longer than the products (128 bytes a cycle
// of shared memory against some 2500 flops a cycle of mma.sync on an H100). With up to about 370 keys all of them stay
// in shared memory and a block owns the (batch, head), so device memory is read once; beyond, blocks own runs of
// queries and tiles of keys pass through a ring.
#include <algorithm>
#include <limits>

#include "core/base/math.h"
#include "core/ops/attention_paths.cuh"
#include "core/ops/attention_tile.cuh"

namespace shardit::cuda::attention {
namespace {

constexpr int kMostWarps = 4;
constexpr int kAhead = 2;             // tiles on their way while one is computed with
constexpr int kReservedBytes = 1024;  // of shared memory, that a block takes for the system
// A row's weights are 2^(score - shift). The shift follows the row's largest score only when that has grown by this
// much (in powers of two): the weights stay far from overflow, and outputs are rarely rescaled.
constexpr float kSlack = 8.0f;

struct FwdParams {
  Heads<const Bf16> q, k, v;
  Heads<Bf16> out;
  float* lse;
  int heads, queries, keys;
  int parts;  // blocks that share a (batch, head)
  int ring_rows;
  float scale_log2;  // scores to powers of two
};

// Strips of queries and their softmax over the keys seen so far.
template <int kHeadDim, int kStrips>
struct QueryRows {
  static constexpr int kRows = kStrips * kStripRows;
  // Scores of a step, in columns of 8 keys: with more of them two strips of 64 or 72 do not fit 168 registers.
  static constexpr int kColumns = 4 / kStrips;
  static constexpr int kStepKeys = 8 * kColumns;
  static constexpr int kChunks = kHeadDim / 8;

  __device__ __forceinline__ void Begin(const Bf16* rows, int64_t stride, int valid) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      q[s].Load(rows + s * kStripRows * stride, stride, valid - s * kStripRows);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        shift[s][half] = -INFINITY;
        sum[s][half] = 0.0f;
      }
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        out[s][chunk][0] = out[s][chunk][1] = out[s][chunk][2] = out[s][chunk][3] = 0.0f;
      }
    }
  }

  // The next keys, of which `valid` >= 1 exist.
  __device__ __forceinline__ void Step(const Bf16* keys, const Bf16* values, int valid, float scale_log2) {
    float scores[kStrips][kColumns][4];
    MultiplyRows(scores, q, keys);
    if (valid < kStepKeys) MaskColumns(scores, valid, -INFINITY);
    MoveShift(scores, scale_log2);
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[s][j][e] = Exp2Approximate(__fmaf_rn(scores[s][j][e], scale_log2, -shift[s][e / 2]));
          sum[s][e / 2] += scores[s][j][e];
        }
      }
    }
    uint32_t weights[kStrips][kColumns / 2][4];
    PackWeights(scores, weights);
    MultiplyColumns<kHeadDim>(out, weights, values);
  }

  __device__ __forceinline__ void MoveShift(const float (&scores)[kStrips][kColumns][4], float scale_log2) {
    float top[kStrips][2];
    bool grown = false;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = scores[s][0][2 * half];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          most = fmaxf(most, fmaxf(scores[s][j][2 * half], scores[s][j][2 * half + 1]));
        }
        top[s][half] = most * scale_log2;
        grown = grown || top[s][half] - shift[s][half] > kSlack;  // always at first: the shift is -infinity
      }
    }
    if (!__any_sync(kAllLanes, grown)) return;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float moved = fmaxf(shift[s][half], MaxOfGroup(top[s][half]));
        const float factor = Exp2Approximate(shift[s][half] - moved);
        shift[s][half] = moved;
        sum[s][half] *= factor;
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
          out[s][chunk][2 * half] *= factor;
          out[s][chunk][2 * half + 1] *= factor;
        }
      }
    }
  }

  __device__ __forceinline__ void Finish(Bf16* rows, int64_t stride, float* lse, int valid) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      const int first = s * kStripRows;
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = SumOfGroup(sum[s][half]);
        factor[half] = __frcp_rn(total);
        const int row = first + Group() + 8 * half;
        if (lse != nullptr && Place() == 0 && row < valid) lse[row] = (shift[s][half] + log2f(total)) * kLn2;
      }
      StoreStrip(out[s], factor, rows + first * stride, stride, valid - first);
    }
  }

  Strip<kHeadDim> q[kStrips];
  float out[kStrips][kChunks][4];
  float shift[kStrips][2];  // powers of two
  float sum[kStrips][2];    // of the lane's own columns
};

// Blocks that a multiprocessor should hold: what the registers of QueryRows allow.
template <int kHeadDim>
constexpr int kBlocksTogether = kHeadDim <= 72 ? 3 : 2;

// Resident: the ring holds all keys, a block takes several rounds of queries. Else it takes one round.
template <int kHeadDim, int kStrips, bool kResident>
__global__ void __launch_bounds__(kMostWarps* kWarp, kBlocksTogether<kHeadDim>) FwdKernel(const FwdParams p) {
  SHARDIT_DYNAMIC_SHARED(Bf16, shared);
  using Rows = QueryRows<kHeadDim, kStrips>;
  constexpr int kPitch = RowLayout<kHeadDim>::kPitch;
  const int item = static_cast<int>(blockIdx.x) / p.parts, part = static_cast<int>(blockIdx.x) % p.parts;
  const int batch = item / p.heads, head = item % p.heads;
  const int tiles = (p.keys + kTileRows - 1) / kTileRows;
  const TilePairs<kHeadDim> pairs{shared,         p.ring_rows,         p.keys,        p.k.At(batch, head),
                                  p.k.row_stride, p.v.At(batch, head), p.v.row_stride};
  for (int tile = 0; tile < (kResident ? tiles : kAhead); ++tile) pairs.Load(tile);

  const int warps = static_cast<int>(blockDim.x) / kWarp, warp = WarpIndex();
#pragma unroll 1
  for (int round = part; round * warps * Rows::kRows < p.queries; round += p.parts) {
    const int first = (round * warps + warp) * Rows::kRows;
    const bool active = first < p.queries;
    Rows rows;
    if (active) rows.Begin(p.q.At(batch, head) + first * p.q.row_stride, p.q.row_stride, p.queries - first);
    int at = 0;  // row in the ring
#pragma unroll 1
    for (int key = 0; key < p.keys; key += Rows::kStepKeys) {
      if (key % kTileRows == 0 && (!kResident || round == part)) {
        WaitForCopies(kResident ? tiles - 1 - key / kTileRows : kAhead - 1);
        __syncthreads();
        if constexpr (!kResident) pairs.Load(key / kTileRows + kAhead);
      }
      if (active) {
        rows.Step(shared + at * kPitch, shared + (at + p.ring_rows) * kPitch, p.keys - key, p.scale_log2);
      }
      at += Rows::kStepKeys;
      if (!kResident && at == p.ring_rows) at = 0;
    }
    if (active) {
      rows.Finish(p.out.At(batch, head) + first * p.out.row_stride, p.out.row_stride,
                  p.lse == nullptr ? nullptr : p.lse + static_cast<int64_t>(item) * p.queries + first,
                  p.queries - first);
    }
    if constexpr (!kResident) return;
  }
}

// False, and nothing done, where a block may not have the ring's shared memory.
template <int kHeadDim, int kStrips>
bool LaunchFwd(const AttentionFwdArgs& args, CudaContext& context) {
  const AttentionShape& shape = args.shape;
  const int64_t strips = CeilDiv(shape.queries, kStrips * kStripRows), warps = std::min<int64_t>(strips, kMostWarps);
  const int64_t rounds = CeilDiv(strips, warps), items = shape.batch * shape.heads;
  // Two blocks with all their keys must fit a multiprocessor, or else copies do not overlap with products.
  const int64_t ring_rows = (kAhead + 1) * kTileRows, all_rows = RoundUp(shape.keys, kStepRows);
  const int64_t limit = SharedLimit(context);
  const bool resident = all_rows <= ring_rows || RingBytes<kHeadDim>(all_rows) <= limit / 2 - kReservedBytes;
  const int64_t rows = resident ? all_rows : ring_rows, bytes = RingBytes<kHeadDim>(rows);
  if (bytes > limit) return false;
  const int64_t wanted = CeilDiv(2 * context.multiprocessors, items);
  const int64_t parts = resident ? std::min(rounds, wanted) : rounds;
  CHECK_LE(items * parts, std::numeric_limits<int>::max()) << "[Attention] too many blocks";
  const FwdParams params{.q = InKernel<Bf16>(args.q),
                         .k = InKernel<Bf16>(args.k),
                         .v = InKernel<Bf16>(args.v),
                         .out = InKernel<Bf16>(args.out),
                         .lse = args.lse,
                         .heads = static_cast<int>(shape.heads),
                         .queries = static_cast<int>(shape.queries),
                         .keys = static_cast<int>(shape.keys),
                         .parts = static_cast<int>(parts),
                         .ring_rows = static_cast<int>(rows),
                         .scale_log2 = shape.scale * kLog2E};
  const auto kernel = resident ? FwdKernel<kHeadDim, kStrips, true> : FwdKernel<kHeadDim, kStrips, false>;
  AllowManyShared(kernel, bytes);
  Launch(kernel, static_cast<unsigned>(items * parts), static_cast<unsigned>(warps * kWarp), static_cast<size_t>(bytes),
         context.stream, params);
  return true;
}

template <int kHeadDim>
bool ChooseFwd(const AttentionFwdArgs& args, CudaContext& context) {
  if constexpr (kHeadDim <= 72) {
    if (args.shape.queries > kStripRows) return LaunchFwd<kHeadDim, 2>(args, context);
  }
  return LaunchFwd<kHeadDim, 1>(args, context);
}

}  // namespace

bool TensorFwd(const AttentionFwdArgs& args, CudaContext& context) {
  return WithTensorHeadDim(args.shape.head_dim, [&]<int kHeadDim>() { return ChooseFwd<kHeadDim>(args, context); });
}

}  // namespace shardit::cuda::attention
