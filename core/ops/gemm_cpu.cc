#include "core/ops/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/gemm_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include <cstring>

#include "core/ops/cpu_math-inl.h"
#include "core/ops/gemm_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

// Sums are cut into equal runs of at most this many terms: what a tile reads of A then stays in the first-level cache
// while panels of B stream past, and rounding errors of long sums grow in two levels. Shorter where A is packed too,
// since several packed tiles share the second-level cache with the panels.
constexpr int64_t kMaxRun = 512;
constexpr int64_t kMaxRunPacked = 256;
// Tiles of A packed together: whole cache lines are read of each row, once.
constexpr int64_t kTilesPacked = 8;
// Packed panels of B that stay in the second-level cache while all rows of A pass.
constexpr int64_t kMaxPanelBytes = 640 * 1024;
// Below this many multiply-adds a product is over before another thread would have started.
constexpr int64_t kInlineWork = 100'000;

// Products of at most this many rows leave B unpacked.
constexpr int64_t kFewRows = 32;

// Part of C that one thread computes.
struct Block {
  Range rows;
  Range columns;
};

// One run of k within a block.
struct Run {
  int64_t begin;
  int64_t size;
  bool is_first;
  bool is_last;
};

// Finishes a tile that went through `tile` (ld kPanel): adds what C already holds, applies the epilogue, stores.
HWY_NOINLINE void StoreTile(const GemmArgs& args, const float* HWY_RESTRICT tile, Range rows, Range columns,
                            bool add_to_c, GemmEpilogue epilogue) {
  const TileD d;
  for (int64_t i = rows.begin; i < rows.end; ++i, tile += kPanel) {
    float* c_row = args.c + i * args.ldc;
    float* aux_row = args.aux + i * args.ldaux;
    for (int64_t j = columns.begin; j < columns.end; j += kLanes) {
      const auto mask = hn::FirstN(d, static_cast<size_t>(columns.end - j));
      auto sum = hn::Load(d, tile + (j - columns.begin));
      if (add_to_c) sum = hn::Add(sum, hn::MaskedLoad(mask, d, c_row + j));
      if (epilogue == GemmEpilogue::kGeluGrad) {
        sum = hn::Mul(sum, GeluTanhGrad(d, hn::MaskedLoad(mask, d, aux_row + j)));
      } else if (epilogue != GemmEpilogue::kNone && args.bias != nullptr) {
        sum = hn::Add(sum, hn::MaskedLoad(mask, d, args.bias + j));
      }
      if (epilogue == GemmEpilogue::kBiasGelu) {
        hn::BlendedStore(sum, mask, d, aux_row + j);
        sum = GeluTanh(d, sum);
      }
      hn::BlendedStore(sum, mask, d, c_row + j);
    }
  }
}

// The tiles of rows [rows.begin, rows.end), at most kTileRows, against the packed panels of `columns`.
template <TileA kLayout>
void ComputeRowOfTiles(const GemmArgs& args, const float* a, int64_t a_step, Range rows, Range columns, const Run& run,
                       const float* panels) {
  const bool add_to_c = args.accumulate || !run.is_first;
  const GemmEpilogue epilogue = run.is_last ? args.epilogue : GemmEpilogue::kNone;
  HWY_ALIGN float tile[kTileRows * kPanel];
  for (int64_t j = columns.begin; j < columns.end; j += kPanel, panels += run.size * kPanel) {
    const Range tile_columns{j, j + kPanel < columns.end ? j + kPanel : columns.end};
    PrefetchRows(args.c + rows.begin * args.ldc + j, args.ldc, rows.size(), tile_columns.size());
    if (args.aux != nullptr && run.is_last) {
      PrefetchRows(args.aux + rows.begin * args.ldaux + j, args.ldaux, rows.size(), tile_columns.size());
    }
    const TileFunction compute = ChooseTile<kLayout>(rows.size(), CeilDiv(tile_columns.size(), kLanes));
    if (tile_columns.size() == kPanel && (epilogue == GemmEpilogue::kNone || epilogue == GemmEpilogue::kBias)) {
      const float* bias = epilogue == GemmEpilogue::kBias ? args.bias + j : nullptr;
      compute(run.size, a, a_step, panels, kPanel, bias, args.c + rows.begin * args.ldc + j, args.ldc,
              add_to_c ? TileC::kAdd : TileC::kOverwrite);
    } else {
      compute(run.size, a, a_step, panels, kPanel, nullptr, tile, kPanel, TileC::kOverwrite);
      StoreTile(args, tile, rows, tile_columns, add_to_c, epilogue);
    }
  }
}

constexpr int64_t TileFloats(int64_t run) { return RoundUp(run * kTileRows + kLanes, 16); }

// The rows of C of tile `tile` when rows [0, count) are cut into nearly equal tiles: no thin one at the edge.
Range TileRows(int64_t count, int64_t tile) { return PartRange(count, CeilDiv(count, kTileRows), tile); }

// Packs `count` steps of A [k, m], columns `rows`, from `from` to out[k * rows.size() + i], adding them to `sums`.
// Writes up to kLanes floats past the end.
HWY_INLINE void PackSteps(const float* HWY_RESTRICT from, int64_t lda, int64_t rows, int64_t count,
                          float* HWY_RESTRICT out, float* HWY_RESTRICT sums) {
  const TileD d;
  for (int64_t i = 0; i < rows; i += kLanes) {
    const auto mask = hn::FirstN(d, static_cast<size_t>(rows - i));
    auto sum = hn::LoadU(d, sums + i);
    for (int64_t kk = 0; kk < count; ++kk) {
      const auto values = hn::MaskedLoad(mask, d, from + kk * lda + i);
      hn::StoreU(values, d, out + kk * rows + i);
      sum = hn::Add(sum, values);
    }
    hn::StoreU(sum, d, sums + i);
  }
}

// Packs tiles [tiles.begin, tiles.end) of A [k, m], whose rows of C are part of `rows`, each TileFloats(run.size) after
// the one before, and adds up the columns of A where sums are wanted.
void PackTiles(const GemmArgs& args, Range rows, Range tiles, const Run& run, bool sum_columns,
               float* HWY_RESTRICT out) {
  constexpr int64_t kSteps = 8;
  constexpr int64_t kSumsStep = kTileRows + kLanes;
  float sums[kTilesPacked * kSumsStep] = {};
  for (int64_t k0 = 0; k0 < run.size; k0 += kSteps) {
    const int64_t count = k0 + kSteps < run.size ? kSteps : run.size - k0;
    const float* steps = args.a + (run.begin + k0) * args.lda + rows.begin;
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      const Range tile = TileRows(rows.size(), t);
      const int64_t slot = t - tiles.begin;
      // The next rows: each in a page of its own, so nothing fetches them unasked.
      for (int64_t kk = 0; kk < kSteps; ++kk) hwy::Prefetch(steps + (kSteps + kk) * args.lda + tile.begin);
      PackSteps(steps + tile.begin, args.lda, tile.size(), count, out + slot * TileFloats(run.size) + k0 * tile.size(),
                sums + slot * kSumsStep);
    }
  }
  if (!sum_columns) return;
  const bool add = args.accumulate_column_sums || !run.is_first;
  for (int64_t t = tiles.begin; t < tiles.end; ++t) {
    const Range tile = TileRows(rows.size(), t);
    const float* tile_sums = sums + (t - tiles.begin) * kSumsStep;
    float* to = args.column_sums + rows.begin;
    for (int64_t i = tile.begin; i < tile.end; ++i) to[i] = (add ? to[i] : 0.0f) + tile_sums[i - tile.begin];
  }
}

void PackPanels(const GemmArgs& args, Range columns, const Run& run, float* panels) {
  if (args.form == GemmForm::kNT) {
    PackColumns(run.size, columns.size(), args.b + columns.begin * args.ldb + run.begin, args.ldb, panels);
  } else {
    PackRows(run.size, columns.size(), args.b + run.begin * args.ldb + columns.begin, args.ldb, panels);
  }
}

// C's block `block`, whose columns are few enough for their panels to fit the cache.
void ComputeGroup(const GemmArgs& args, const Block& block, const Run& run, bool sum_columns, float* panels,
                  float* a_tiles) {
  PackPanels(args, block.columns, run, panels);
  const int64_t tiles = CeilDiv(block.rows.size(), kTileRows);
  for (int64_t first = 0; first < tiles; first += kTilesPacked) {
    const Range some{first, first + kTilesPacked < tiles ? first + kTilesPacked : tiles};
    if (args.form == GemmForm::kTN) PackTiles(args, block.rows, some, run, sum_columns, a_tiles);
    for (int64_t t = some.begin; t < some.end; ++t) {
      const Range part = TileRows(block.rows.size(), t);
      const Range rows{block.rows.begin + part.begin, block.rows.begin + part.end};
      if (args.form == GemmForm::kTN) {
        ComputeRowOfTiles<TileA::kByColumns>(args, a_tiles + (t - first) * TileFloats(run.size), rows.size(), rows,
                                             block.columns, run, panels);
      } else {
        ComputeRowOfTiles<TileA::kByRows>(args, args.a + rows.begin * args.lda + run.begin, args.lda, rows,
                                          block.columns, run, panels);
      }
    }
  }
}

void ComputeBlock(const GemmArgs& args, const Block& block, Workspace& workspace, int thread) {
  const bool packs_a = args.form == GemmForm::kTN;
  const int64_t runs = args.k > 0 ? CeilDiv(args.k, packs_a ? kMaxRunPacked : kMaxRun) : 1;
  const int64_t longest = CeilDiv(args.k, runs);
  const int64_t panel_floats = longest * kPanel;
  int64_t group_panels = panel_floats > 0 ? kMaxPanelBytes / (panel_floats * int64_t{sizeof(float)}) : 1;
  const int64_t block_panels = CeilDiv(block.columns.size(), kPanel);
  group_panels = group_panels < 1 ? 1 : group_panels;
  const int64_t groups = CeilDiv(block_panels, group_panels);
  const int64_t panels_size = RoundUp(CeilDiv(block_panels, groups) * panel_floats, 16);
  float* panels = workspace.ThreadArea<float>(thread, panels_size + (packs_a ? kTilesPacked * TileFloats(longest) : 0));
  for (int64_t g = 0; g < groups; ++g) {
    const Range part = PartRange(block_panels, groups, g);
    const int64_t end = block.columns.begin + part.end * kPanel;
    const Range columns{block.columns.begin + part.begin * kPanel, end < block.columns.end ? end : block.columns.end};
    for (int64_t r = 0; r < runs; ++r) {
      const Range steps = PartRange(args.k, runs, r);
      // Every thread and group packs its own A: the one that owns column 0 also reports its sums.
      const bool sum_columns = args.column_sums != nullptr && columns.begin == 0;
      ComputeGroup(args, {block.rows, columns}, {steps.begin, steps.size(), r == 0, r + 1 == runs}, sum_columns, panels,
                   panels + panels_size);
    }
  }
}

// Products of few rows: B, a weight, is read once, in place, as fast as memory gives it; packing would read it twice.

#if HWY_TARGET != HWY_SCALAR
// The sum of the 128-bit blocks of v.
template <class D>
HWY_INLINE void StoreBlockSums(D d, hn::Vec<D> v, float* out) {
  if constexpr (hn::MaxLanes(d) <= 4) {
    hn::StoreU(v, d, out);
  } else {
    const hn::Half<D> half;
    StoreBlockSums(half, hn::Add(hn::UpperHalf(half, v), hn::LowerHalf(half, v)), out);
  }
}
#endif

// The sums over lanes of v0 .. v3, to out[0, 4).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void StoreLaneSums(D d, V v0, V v1, V v2, V v3, float* out) {
#if HWY_TARGET == HWY_SCALAR
  const V all[] = {v0, v1, v2, v3};
  for (int i = 0; i < 4; ++i) out[i] = hn::GetLane(all[i]);
#else
  const hn::Repartition<double, D> d64;
  const auto v01 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
  const auto v23 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
  const auto low = hn::BitCast(d, hn::InterleaveLower(d64, v01, v23));
  StoreBlockSums(d, hn::Add(low, hn::BitCast(d, hn::InterleaveUpper(d64, v01, v23))), out);
#endif
}

// One step of DotTile: `lanes` elements of the rows of A and B, a whole vector of them or the last few.
template <bool kWhole, int kRows, class V>
HWY_INLINE void AddDots(int64_t lanes, const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b,
                        int64_t ldb, V (&sums)[kRows][4]) {
  const TileD d;
  const auto mask = hn::FirstN(d, static_cast<size_t>(lanes));
  V b_vec[4];
  HWY_UNROLL(4)
  for (int j = 0; j < 4; ++j) b_vec[j] = kWhole ? hn::LoadU(d, b + j * ldb) : hn::MaskedLoad(mask, d, b + j * ldb);
  HWY_UNROLL(4)
  for (int i = 0; i < kRows; ++i) {
    const V a_vec = kWhole ? hn::LoadU(d, a + i * lda) : hn::MaskedLoad(mask, d, a + i * lda);
    HWY_UNROLL(4)
    for (int j = 0; j < 4; ++j) sums[i][j] = hn::MulAdd(a_vec, b_vec[j], sums[i][j]);
  }
}

// out[i * kPanel + j] = sum over k of a[i * lda + k] b[j * ldb + k], for kRows rows of A and four rows of B.
template <int kRows>
HWY_NOINLINE void DotTile(int64_t k, const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b, int64_t ldb,
                          float* HWY_RESTRICT out) {
  const TileD d;
  hn::Vec<TileD> sums[kRows][4];
  HWY_UNROLL(4)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < 4; ++j) sums[i][j] = hn::Zero(d);
  }
  int64_t step = 0;
  for (; step + kLanes <= k; step += kLanes) {
    // The four rows after these: streams as short as a row end before the hardware runs ahead of them.
    HWY_UNROLL(4)
    for (int j = 0; j < 4; ++j) hwy::Prefetch(b + (j + 4) * ldb + step);
    AddDots<true>(kLanes, a + step, lda, b + step, ldb, sums);
  }
  if (step < k) AddDots<false>(k - step, a + step, lda, b + step, ldb, sums);
  HWY_UNROLL(4)
  for (int i = 0; i < kRows; ++i) StoreLaneSums(d, sums[i][0], sums[i][1], sums[i][2], sums[i][3], out + i * kPanel);
}

// kNT: dot products of rows.
void ComputeFewRowsNT(const GemmArgs& args, const Block& block) {
  HWY_ALIGN float tile[kFewRows * kPanel];
  for (int64_t j = block.columns.begin; j < block.columns.end; j += kPanel) {
    const Range columns{j, j + kPanel < block.columns.end ? j + kPanel : block.columns.end};
    for (int64_t jj = 0; jj < columns.size(); jj += 4) {
      const float* b = args.b + (j + jj) * args.ldb;
      for (int64_t i = block.rows.begin; i < block.rows.end; i += 4) {
        const float* a = args.a + i * args.lda;
        float* out = tile + (i - block.rows.begin) * kPanel + jj;
        switch (block.rows.end - i) {
          case 1:
            DotTile<1>(args.k, a, args.lda, b, args.ldb, out);
            break;
          case 2:
            DotTile<2>(args.k, a, args.lda, b, args.ldb, out);
            break;
          case 3:
            DotTile<3>(args.k, a, args.lda, b, args.ldb, out);
            break;
          default:
            DotTile<4>(args.k, a, args.lda, b, args.ldb, out);
        }
      }
    }
    StoreTile(args, tile, block.rows, columns, args.accumulate, args.epilogue);
  }
}

// kNN: tiles over short runs of k, so that whole rows of B are used while they are near. Columns: whole panels.
void ComputeFewRowsNN(const GemmArgs& args, const Block& block, float* sums) {
  constexpr int64_t kRun = 32;
  const int64_t step = RoundUp(block.columns.size(), kPanel);
  const Range rows = block.rows;
  for (int64_t k0 = 0; k0 < args.k; k0 += kRun) {
    const int64_t run = k0 + kRun < args.k ? kRun : args.k - k0;
    for (int64_t j = 0; j < block.columns.size(); j += kPanel) {
      const float* b = args.b + k0 * args.ldb + block.columns.begin + j;
      PrefetchRows(b + kRun * args.ldb, args.ldb, kRun, kPanel);
      for (int64_t t = 0; t < CeilDiv(rows.size(), kTileRows); ++t) {
        const Range tile = TileRows(rows.size(), t);
        ChooseTile<TileA::kByRows>(tile.size(), kTileVecs)(run, args.a + (rows.begin + tile.begin) * args.lda + k0,
                                                           args.lda, b, args.ldb, nullptr, sums + tile.begin * step + j,
                                                           step, k0 == 0 ? TileC::kOverwrite : TileC::kAdd);
      }
    }
  }
  HWY_ALIGN float tile[kFewRows * kPanel];
  for (int64_t j = 0; j < block.columns.size(); j += kPanel) {
    for (int64_t i = 0; i < rows.size(); ++i)
      std::memcpy(tile + i * kPanel, sums + i * step + j, kPanel * sizeof(float));
    StoreTile(args, tile, rows, {block.columns.begin + j, block.columns.begin + j + kPanel}, args.accumulate,
              args.epilogue);
  }
}

// A function of the shape alone, as the order of the sums depends on it.
bool HasFewRows(const GemmArgs& args) {
  if (args.m > kFewRows || args.k == 0 || args.independent_rows) return false;
  return (args.form == GemmForm::kNT && args.n % 4 == 0) || (args.form == GemmForm::kNN && args.n % kPanel == 0);
}

void ComputeFewRows(const GemmArgs& args, const Block& block, Workspace& workspace, int thread) {
  if (args.form == GemmForm::kNT) {
    ComputeFewRowsNT(args, block);
  } else {
    ComputeFewRowsNN(args, block, workspace.ThreadArea<float>(thread, block.rows.size() * block.columns.size()));
  }
}

// How many parts to cut rows and columns into.
struct Grid {
  int rows;
  int columns;
};

// The grid of at most `threads` blocks whose largest block takes least time, counting arithmetic and each thread's own
// packing of B.
Grid ChooseGrid(const GemmArgs& args, int threads) {
  Grid best{1, 1};
  if (args.m * args.n * args.k <= kInlineWork) return best;
  if (HasFewRows(args)) return {1, threads};
  constexpr double kFlopCost = 1.0 / (2 * kLanes), kPackCost = 0.35;  // in cycles, each of one element and step of k
  double best_cost = 1e300;
  const int64_t panels = CeilDiv(args.n, kPanel);
  for (int columns = 1; columns <= threads; ++columns) {
    const int rows = threads / columns;
    const double block_columns = static_cast<double>(CeilDiv(panels, columns) * kPanel);
    const double block_rows = static_cast<double>(CeilDiv(args.m, rows));
    const double cost = block_rows * block_columns * kFlopCost + (block_columns + block_rows) * kPackCost;
    if (cost < best_cost) {
      best_cost = cost;
      best = {rows, columns};
    }
  }
  return best;
}

void RunGemm(const GemmArgs& args, CpuContext& context) {
  const Grid grid = ChooseGrid(args, context.pool.threads());
  const int64_t panels = CeilDiv(args.n, kPanel);
  const auto run_block = [&](int thread) {
    if (thread >= grid.rows * grid.columns) return;
    const Range part = PartRange(panels, grid.columns, thread % grid.columns);
    const int64_t end = part.end * kPanel;
    const Block block{PartRange(args.m, grid.rows, thread / grid.columns),
                      {part.begin * kPanel, end < args.n ? end : args.n}};
    if (block.rows.size() == 0 || block.columns.size() <= 0) return;
    const auto compute = HasFewRows(args) ? ComputeFewRows : ComputeBlock;
    compute(args, block, context.workspace, thread);
  };
  if (grid.rows * grid.columns == 1) {
    run_block(0);
  } else {
    context.pool.RunOnAll(run_block);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/check.h"

namespace shardit::cpu {
namespace {

HWY_EXPORT(RunGemm);

void CheckArgs(const GemmArgs& args) {
  CHECK(args.m >= 0 && args.n >= 0 && args.k >= 0) << "[Gemm] " << args.m << " x " << args.n << " x " << args.k;
  const bool a_is_mk = args.form != GemmForm::kTN, b_is_kn = args.form != GemmForm::kNT;
  CHECK_GE(args.lda, a_is_mk ? args.k : args.m) << "[Gemm] leading dimension of A";
  CHECK_GE(args.ldb, b_is_kn ? args.n : args.k) << "[Gemm] leading dimension of B";
  CHECK_GE(args.ldc, args.n) << "[Gemm] leading dimension of C";
  CHECK(args.c != nullptr || args.m * args.n == 0) << "[Gemm] C is null";
  const bool has_aux = args.epilogue == GemmEpilogue::kBiasGelu || args.epilogue == GemmEpilogue::kGeluGrad;
  CHECK(!has_aux || (args.aux != nullptr && args.ldaux >= args.n && !args.accumulate))
      << "[Gemm] a GELU epilogue needs aux and no accumulation";
  CHECK(args.epilogue != GemmEpilogue::kBias || args.bias != nullptr) << "[Gemm] bias is null";
  CHECK(args.column_sums == nullptr || (args.form == GemmForm::kTN && args.n > 0))
      << "[Gemm] column sums are taken in the TN form, with a product";
  CHECK(args.batch == 1 || (args.form == GemmForm::kNT && !has_aux)) << "[Gemm] batches are for forward without GELU";
}

KernelCost CostOf(const GemmArgs& args) {
  const char* const names[] = {"gemm_nt", "gemm_nn", "gemm_tn"};
  const double m = static_cast<double>(args.m), n = static_cast<double>(args.n), k = static_cast<double>(args.k);
  const double in = static_cast<double>(SizeOf(args.a.dtype())), out = static_cast<double>(SizeOf(args.c.dtype()));
  const double c_bytes = (args.accumulate ? 2.0 : 1.0) * out + (args.aux.raw() != nullptr ? in : 0.0);
  const double batch = static_cast<double>(args.batch);
  return {names[static_cast<int>(args.form)], batch * 2.0 * m * n * k,
          in * (m * k + batch * n * k) + batch * c_bytes * m * n};
}

}  // namespace

void Gemm(const GemmArgs& args, CpuContext& context) {
  CheckArgs(args);
  if (args.m == 0 || args.n == 0) return;
  if (context.Planned(CostOf(args))) return;
  GemmArgs one = args;
  one.batch = 1;
  for (int64_t i = 0; i < args.batch; ++i) {
    one.b = args.b.At(i * args.b_stride);
    one.c = args.c.At(i * args.c_stride);
    if (args.bias != nullptr) one.bias = args.bias.At(i * args.bias_stride);
    HWY_DYNAMIC_DISPATCH(RunGemm)(one, context);
  }
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
