#include "core/ops/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/gemm_cpu.cc"
#include "core/ops/simd_targets.h"
#include "hwy/foreach_target.h"
//
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
      compute(run.size, a, a_step, panels, bias, args.c + rows.begin * args.ldc + j, args.ldc,
              add_to_c ? TileC::kAdd : TileC::kOverwrite);
    } else {
      compute(run.size, a, a_step, panels, nullptr, tile, kPanel, TileC::kOverwrite);
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
    if (block.rows.size() > 0 && block.columns.size() > 0) ComputeBlock(args, block, context.workspace, thread);
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
}

}  // namespace

void Gemm(const GemmArgs& args, CpuContext& context) {
  CheckArgs(args);
  if (args.m == 0 || args.n == 0) return;
  HWY_DYNAMIC_DISPATCH(RunGemm)(args, context);
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
