#include "core/ops/attention_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/attention_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include <cmath>
#include <limits>

#include "core/ops/cpu_math-inl.h"
#include "core/ops/gemm_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

// Rows of queries whose scores and score gradients are held at a time: enough for long runs of k in dk and dv, few
// enough that the block stays in the second-level cache. A function of the shape alone: the sums' order depends on it.
constexpr int64_t kMaxBlockRows = 112;
constexpr int64_t kMaxBlockFloats = 48 * 1024;

// Scores of one row, padded so that rows do not fall onto the same cache sets.
int64_t ScoresStep(int64_t keys) { return RoundUp(keys, kPanel) + 16; }
int64_t PanelFloats(int64_t k, int64_t n) { return RoundUp(k * RoundUp(n, kPanel), 16); }
int64_t BlockRows(const AttentionShape& shape) {
  const int64_t fitting = kMaxBlockFloats / ScoresStep(shape.keys) / kTileRows * kTileRows;
  const int64_t rows = fitting < 2 * kTileRows ? 2 * kTileRows : fitting > kMaxBlockRows ? kMaxBlockRows : fitting;
  return CeilDiv(shape.queries, CeilDiv(shape.queries, rows));
}

// Hands out aligned arrays of one thread's area, in order; with no area it only counts.
class Carver {
 public:
  explicit Carver(float* area) : area_(area) {}
  float* Take(int64_t count) {
    float* array = area_ == nullptr ? nullptr : area_ + used_;
    used_ += RoundUp(count, 16);
    return array;
  }
  int64_t used() const { return used_; }

 private:
  float* area_;
  int64_t used_ = 0;
};

// out[rows, columns] = A [rows, k] times packed panels; whole vectors are written, so out_step >= RoundUp(columns,
// kPanel).
template <TileA kLayout>
HWY_INLINE void MultiplyPanels(const float* a, int64_t a_step, int64_t rows, int64_t k, const float* panels,
                               int64_t columns, float* out, int64_t out_step, TileC mode) {
  for (int64_t j = 0; j < columns; j += kPanel, panels += k * kPanel) {
    const int64_t vecs = CeilDiv(columns - j < kPanel ? columns - j : kPanel, kLanes);
    ChooseTile<kLayout>(rows, vecs)(k, a, a_step, panels, kPanel, nullptr, out + j, out_step, mode);
  }
}

// to[i * to_step + j] = from[i * from_step + j] * factor
HWY_NOINLINE void StoreScaled(const float* HWY_RESTRICT from, int64_t from_step, int64_t rows, int64_t columns,
                              float factor, float* HWY_RESTRICT to, int64_t to_step) {
  const TileD d;
  const auto factors = hn::Set(d, factor);
  for (int64_t i = 0; i < rows; ++i, from += from_step, to += to_step) {
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, from + j), factors), d, to + j);
    for (; j < columns; ++j) to[j] = from[j] * factor;
  }
}

// Replaces scores by exp(scale * (score - largest)) and returns their sum in `sum` and the largest in `largest`.
// Reads and writes whole vectors; what lies beyond `keys` becomes 0.
HWY_NOINLINE void ExponentiateRow(float* HWY_RESTRICT scores, int64_t keys, float scale, float& largest, float& sum) {
  const TileD d;
  const int64_t last = (keys - 1) / kLanes * kLanes;
  const auto mask = hn::FirstN(d, static_cast<size_t>(keys - last));
  hn::Store(hn::IfThenElse(mask, hn::Load(d, scores + last), hn::Neg(hn::Inf(d))), d, scores + last);
  auto top = hn::Load(d, scores);
  for (int64_t j = kLanes; j < keys; j += kLanes) top = hn::Max(top, hn::Load(d, scores + j));
  largest = hn::GetLane(hn::MaxOfLanes(d, top));
  const auto scales = hn::Set(d, scale), shift = hn::Set(d, -scale * largest);
  auto total = hn::Zero(d);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const auto weight = ExpNonPositive(d, hn::MulAdd(hn::Load(d, scores + j), scales, shift));
    total = hn::Add(total, weight);
    hn::Store(weight, d, scores + j);
  }
  sum = hn::GetLane(hn::SumOfLanes(d, total));
}

struct ForwardScratch {
  ForwardScratch(const AttentionShape& shape, float* area) : carver(area) {
    step = ScoresStep(shape.keys);
    head_step = RoundUp(shape.head_dim, kPanel);
    key_columns = carver.Take(PanelFloats(shape.head_dim, shape.keys));
    value_rows = carver.Take(PanelFloats(shape.keys, shape.head_dim));
    scores = carver.Take(kTileRows * step);
    out_tile = carver.Take(kTileRows * head_step);
  }

  Carver carver;
  int64_t step, head_step;
  float *key_columns, *value_rows, *scores, *out_tile;
};

// Rows [queries.begin, queries.end) of one head's output.
void ForwardHead(const AttentionFwdArgs& args, int64_t batch, int64_t head, Range queries, Workspace& workspace,
                 int thread) {
  const AttentionShape& shape = args.shape;
  const int64_t size = ForwardScratch(shape, nullptr).carver.used();
  const ForwardScratch scratch(shape, workspace.ThreadArea<float>(thread, size));
  PackColumns(shape.head_dim, shape.keys, args.k.At(batch, head), args.k.row_stride, scratch.key_columns);
  PackRows(shape.keys, shape.head_dim, args.v.At(batch, head), args.v.row_stride, scratch.value_rows);

  const int64_t tiles = CeilDiv(queries.size(), kTileRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const Range part = PartRange(queries.size(), tiles, t);
    const int64_t first = queries.begin + part.begin, rows = part.size();
    PrefetchRows(args.out.At(batch, head) + first * args.out.row_stride, args.out.row_stride, rows, shape.head_dim);
    PrefetchRows(args.q.At(batch, head) + (first + rows) * args.q.row_stride, args.q.row_stride, rows, shape.head_dim);
    MultiplyPanels<TileA::kByRows>(args.q.At(batch, head) + first * args.q.row_stride, args.q.row_stride, rows,
                                   shape.head_dim, scratch.key_columns, shape.keys, scratch.scores, scratch.step,
                                   TileC::kOverwrite);
    float sums[kTileRows];
    for (int64_t i = 0; i < rows; ++i) {
      float largest;
      ExponentiateRow(scratch.scores + i * scratch.step, shape.keys, shape.scale, largest, sums[i]);
      if (args.lse != nullptr) {
        args.lse[(batch * shape.heads + head) * shape.queries + first + i] = shape.scale * largest + std::log(sums[i]);
      }
    }
    MultiplyPanels<TileA::kByRows>(scratch.scores, scratch.step, rows, shape.keys, scratch.value_rows, shape.head_dim,
                                   scratch.out_tile, scratch.head_step, TileC::kOverwrite);
    for (int64_t i = 0; i < rows; ++i) {
      StoreScaled(scratch.out_tile + i * scratch.head_step, scratch.head_step, 1, shape.head_dim, 1.0f / sums[i],
                  args.out.At(batch, head) + (first + i) * args.out.row_stride, args.out.row_stride);
    }
  }
}

// scores -> P = exp(scale * score - lse) and score_grads (dP) -> dS = P (dP - delta), for one row.
HWY_NOINLINE void BackwardRow(float* HWY_RESTRICT scores, float* HWY_RESTRICT score_grads, int64_t keys, float scale,
                              float lse, float delta) {
  const TileD d;
  const auto scales = hn::Set(d, scale), shift = hn::Set(d, -lse), deltas = hn::Set(d, delta);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const auto weight = ExpNonPositive(d, hn::MulAdd(hn::Load(d, scores + j), scales, shift));
    hn::Store(weight, d, scores + j);
    hn::Store(hn::Mul(weight, hn::Sub(hn::Load(d, score_grads + j), deltas)), d, score_grads + j);
  }
}

HWY_NOINLINE float DotRow(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t count) {
  const TileD d;
  auto total = hn::Zero(d);
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) total = hn::MulAdd(hn::LoadU(d, a + j), hn::LoadU(d, b + j), total);
  float sum = hn::GetLane(hn::SumOfLanes(d, total));
  for (; j < count; ++j) sum += a[j] * b[j];
  return sum;
}

// What one backward job computes: dq of the rows `queries`, or dk and dv of the rows `keys` (over all queries), or
// both.
struct BackwardJob {
  int64_t batch = 0;
  int64_t head = 0;
  Range queries;  // whole blocks
  Range keys;     // starts on a panel
  bool wants_dq = true;
  bool wants_dkv = true;
};

// One head's scratch arrays. Panels by columns serve Q K^T and dO V^T; those by rows, products that sum over tokens.
struct BackwardScratch {
  BackwardScratch(const AttentionShape& shape, int64_t keys, int64_t block_rows, float* area) : carver(area) {
    step = ScoresStep(keys);
    head_step = RoundUp(shape.head_dim, kPanel);
    key_columns = carver.Take(PanelFloats(shape.head_dim, keys));
    value_columns = carver.Take(PanelFloats(shape.head_dim, keys));
    key_rows = carver.Take(PanelFloats(keys, shape.head_dim));
    query_rows = carver.Take(PanelFloats(block_rows, shape.head_dim));
    out_grad_rows = carver.Take(PanelFloats(block_rows, shape.head_dim));
    scores = carver.Take(block_rows * step);
    score_grads = carver.Take(block_rows * step);
    dk = carver.Take(keys * head_step);
    dv = carver.Take(keys * head_step);
    dq_tile = carver.Take(kTileRows * head_step);
  }

  Carver carver;
  int64_t step, head_step;
  float *key_columns, *value_columns, *key_rows, *query_rows, *out_grad_rows, *scores, *score_grads, *dk, *dv, *dq_tile;
};

// P and dS of the block's rows, and dq where wanted.
void BackwardScores(const AttentionBwdArgs& args, const BackwardJob& job, Range block, const BackwardScratch& scratch) {
  const AttentionShape& shape = args.shape;
  const int64_t tiles = CeilDiv(block.size(), kTileRows), keys = job.keys.size();
  for (int64_t t = 0; t < tiles; ++t) {
    const Range part = PartRange(block.size(), tiles, t);
    const int64_t first = block.begin + part.begin, rows = part.size();
    float* scores = scratch.scores + part.begin * scratch.step;
    float* score_grads = scratch.score_grads + part.begin * scratch.step;
    const float* d_out = args.d_out.At(job.batch, job.head) + first * args.d_out.row_stride;
    const float* out = args.out.At(job.batch, job.head) + first * args.out.row_stride;
    PrefetchRows(out, args.out.row_stride, rows, shape.head_dim);
    PrefetchRows(d_out + rows * args.d_out.row_stride, args.d_out.row_stride, rows, shape.head_dim);
    const float* lse = args.lse + (job.batch * shape.heads + job.head) * shape.queries + first;
    MultiplyPanels<TileA::kByRows>(args.q.At(job.batch, job.head) + first * args.q.row_stride, args.q.row_stride, rows,
                                   shape.head_dim, scratch.key_columns, keys, scores, scratch.step, TileC::kOverwrite);
    MultiplyPanels<TileA::kByRows>(d_out, args.d_out.row_stride, rows, shape.head_dim, scratch.value_columns, keys,
                                   score_grads, scratch.step, TileC::kOverwrite);
    for (int64_t i = 0; i < rows; ++i) {
      const float delta = DotRow(d_out + i * args.d_out.row_stride, out + i * args.out.row_stride, shape.head_dim);
      BackwardRow(scores + i * scratch.step, score_grads + i * scratch.step, keys, shape.scale, lse[i], delta);
    }
    if (!job.wants_dq) continue;
    MultiplyPanels<TileA::kByRows>(score_grads, scratch.step, rows, keys, scratch.key_rows, shape.head_dim,
                                   scratch.dq_tile, scratch.head_step, TileC::kOverwrite);
    StoreScaled(scratch.dq_tile, scratch.head_step, rows, shape.head_dim, shape.scale,
                args.dq.At(job.batch, job.head) + first * args.dq.row_stride, args.dq.row_stride);
  }
}

// out[keys, head_dim] (+)= weights[block rows, keys]^T rows[block rows, head_dim]
void AddTransposed(const float* weights, int64_t step, int64_t block_rows, const float* row_panels, int64_t keys,
                   int64_t head_dim, float* out, int64_t out_step, TileC mode) {
  const int64_t tiles = CeilDiv(keys, kTileRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const Range part = PartRange(keys, tiles, t);
    MultiplyPanels<TileA::kByColumns>(weights + part.begin, step, part.size(), block_rows, row_panels, head_dim,
                                      out + part.begin * out_step, out_step, mode);
  }
}

void BackwardHead(const AttentionBwdArgs& args, const BackwardJob& job, Workspace& workspace, int thread) {
  const AttentionShape& shape = args.shape;
  const int64_t keys = job.keys.size(), block_rows = BlockRows(shape), head_dim = shape.head_dim;
  const int64_t size = BackwardScratch(shape, keys, block_rows, nullptr).carver.used();
  const BackwardScratch scratch(shape, keys, block_rows, workspace.ThreadArea<float>(thread, size));
  const float* k = args.k.At(job.batch, job.head) + job.keys.begin * args.k.row_stride;
  const float* v = args.v.At(job.batch, job.head) + job.keys.begin * args.v.row_stride;
  PackColumns(head_dim, keys, k, args.k.row_stride, scratch.key_columns);
  PackColumns(head_dim, keys, v, args.v.row_stride, scratch.value_columns);
  if (job.wants_dq) PackRows(keys, head_dim, k, args.k.row_stride, scratch.key_rows);

  for (int64_t begin = job.queries.begin; begin < job.queries.end; begin += block_rows) {
    const Range block{begin, begin + block_rows < job.queries.end ? begin + block_rows : job.queries.end};
    BackwardScores(args, job, block, scratch);
    if (!job.wants_dkv) continue;
    PackRows(block.size(), head_dim, args.q.At(job.batch, job.head) + begin * args.q.row_stride, args.q.row_stride,
             scratch.query_rows);
    PackRows(block.size(), head_dim, args.d_out.At(job.batch, job.head) + begin * args.d_out.row_stride,
             args.d_out.row_stride, scratch.out_grad_rows);
    const TileC mode = begin == job.queries.begin ? TileC::kOverwrite : TileC::kAdd;
    AddTransposed(scratch.scores, scratch.step, block.size(), scratch.out_grad_rows, keys, head_dim, scratch.dv,
                  scratch.head_step, mode);
    AddTransposed(scratch.score_grads, scratch.step, block.size(), scratch.query_rows, keys, head_dim, scratch.dk,
                  scratch.head_step, mode);
  }
  if (!job.wants_dkv) return;
  StoreScaled(scratch.dv, scratch.head_step, keys, head_dim, 1.0f,
              args.dv.At(job.batch, job.head) + job.keys.begin * args.dv.row_stride, args.dv.row_stride);
  StoreScaled(scratch.dk, scratch.head_step, keys, head_dim, shape.scale,
              args.dk.At(job.batch, job.head) + job.keys.begin * args.dk.row_stride, args.dk.row_stride);
}

// Rows of part `part` when `count` rows are cut into `parts` at multiples of `unit`.
Range PartOfUnits(int64_t count, int64_t unit, int64_t parts, int64_t part) {
  const Range units = PartRange(CeilDiv(count, unit), parts, part);
  const int64_t end = units.end * unit;
  return {units.begin * unit, end < count ? end : count};
}

void RunForward(const AttentionFwdArgs& args, CpuContext& context) {
  const int64_t heads = args.shape.batch * args.shape.heads, threads = context.pool.threads();
  const int64_t parts = heads >= threads ? 1 : CeilDiv(threads, heads);
  context.pool.ParallelFor(heads * parts, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / parts;
      const Range queries = PartOfUnits(args.shape.queries, kTileRows, parts, item % parts);
      if (queries.size() <= 0) continue;
      ForwardHead(args, head / args.shape.heads, head % args.shape.heads, queries, context.workspace, thread);
    }
  });
}

// With fewer heads than threads a head is cut twice, for dq by its queries and for dk and dv by its keys: each part
// recomputes the scores it needs, and no sum is split.
void RunBackward(const AttentionBwdArgs& args, CpuContext& context) {
  const AttentionShape& shape = args.shape;
  const int64_t heads = shape.batch * shape.heads, threads = context.pool.threads();
  const int64_t parts = heads >= threads ? 0 : CeilDiv(CeilDiv(threads, heads), 2);
  const int64_t jobs = parts == 0 ? 1 : 2 * parts;
  context.pool.ParallelFor(heads * jobs, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / jobs, part = item % jobs;
      BackwardJob job{head / shape.heads, head % shape.heads, {0, shape.queries}, {0, shape.keys}};
      if (parts > 0) {
        job.wants_dq = part < parts;
        job.wants_dkv = !job.wants_dq;
        if (job.wants_dq) {
          job.queries = PartOfUnits(shape.queries, BlockRows(shape), parts, part);
        } else {
          job.keys = PartOfUnits(shape.keys, kPanel, parts, part - parts);
        }
      }
      if (job.queries.size() <= 0 || job.keys.size() <= 0) continue;
      BackwardHead(args, job, context.workspace, thread);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/check.h"

namespace shardit::cpu {
namespace {

HWY_EXPORT(RunForward);
HWY_EXPORT(RunBackward);

void CheckShape(const AttentionShape& shape) {
  CHECK(shape.batch >= 0 && shape.heads >= 1 && shape.head_dim >= 1 && shape.queries >= 1 && shape.keys >= 1)
      << "[Attention] batch " << shape.batch << " heads " << shape.heads << " head_dim " << shape.head_dim
      << " queries " << shape.queries << " keys " << shape.keys;
  CHECK_GT(shape.scale, 0.0f) << "[Attention] the row's largest score is found before scaling";
}

// `products` of [queries, keys] by head_dim for every head; `row_passes` over the operands' rows.
KernelCost CostOf(const char* name, const AttentionShape& shape, DType dtype, double products, double row_passes) {
  const double heads = static_cast<double>(shape.batch * shape.heads), dim = static_cast<double>(shape.head_dim);
  const double queries = static_cast<double>(shape.queries), keys = static_cast<double>(shape.keys);
  return {name, products * 2.0 * heads * queries * keys * dim,
          row_passes * static_cast<double>(SizeOf(dtype)) * heads * (queries + keys) * dim};
}

}  // namespace

void AttentionFwd(const AttentionFwdArgs& args, CpuContext& context) {
  CheckShape(args.shape);
  if (context.Planned(CostOf("attention_fwd", args.shape, args.q.data.dtype(), 2, 2))) return;  // q, k, v, out
  HWY_DYNAMIC_DISPATCH(RunForward)(args, context);
}

void AttentionBwd(const AttentionBwdArgs& args, CpuContext& context) {
  CheckShape(args.shape);
  CHECK(args.lse != nullptr) << "[Attention] backward needs the log-sum-exp of forward";
  // Scores once more, dv, dP, dq, dk; q, k, v, out, d_out, dq, dk, dv.
  if (context.Planned(CostOf("attention_bwd", args.shape, args.q.data.dtype(), 5, 4))) return;
  HWY_DYNAMIC_DISPATCH(RunBackward)(args, context);
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
