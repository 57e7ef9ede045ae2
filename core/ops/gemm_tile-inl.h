// Register tiles and panel packing shared by the GEMM and attention kernels; compiled once per instruction set.
//
// A tile is kRows x kVecs vectors of C held in registers over a run of k: one row of B (kVecs vectors, from a packed
// panel) is loaded per k and multiplied by kRows broadcast elements of A. This is the inner kernel of Goto and van de
// Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008, with A read in place where its rows
// run along k.
//
// Panel of B: kPanel = kTileVecs * lanes columns, element (k, j) at panel[k * kPanel + j], columns past the edge zero.
// Every element of C is summed over k in order, one fused multiply-add a step, whatever tile it falls in.
#if defined(SHARDIT_CORE_OPS_GEMM_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SHARDIT_CORE_OPS_GEMM_TILE_INL_H_
#undef SHARDIT_CORE_OPS_GEMM_TILE_INL_H_
#else
#define SHARDIT_CORE_OPS_GEMM_TILE_INL_H_
#endif

#include <array>
#include <cstdint>
#include <utility>

#include "core/base/math.h"
#include "core/base/simd_targets.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using TileD = hn::ScalableTag<float>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(TileD()));

// Tile sizes fill the register file: 28 + 2 + 1 of 32 registers for AVX-512, 12 + 2 + 1 of 16 for AVX2; 24 of
// NEON's 32.
constexpr int kTileVecs = kLanes == 1 ? 4 : 2;
constexpr int kTileRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : kLanes == 4 ? 8 : 4;
constexpr int64_t kPanel = kTileVecs * kLanes;

// Where a tile finds A. By rows: element (i, k) is a[i * a_step + k]. By columns: a[k * a_step + i].
enum class TileA { kByRows, kByColumns };
enum class TileC { kOverwrite, kAdd };

// C[i * ldc + j] (+)= bias[j] + sum over k of A(i, k) b[k * b_step + j], for i in [0, kRows), j in [0, kVecs * kLanes).
// b_step is kPanel for a packed panel, or the leading dimension of a B read in place. bias may be null.
template <TileA kLayout, int kRows, int kVecs>
HWY_NOINLINE void ComputeTile(int64_t k, const float* HWY_RESTRICT a, int64_t a_step, const float* HWY_RESTRICT b,
                              int64_t b_step, const float* bias, float* HWY_RESTRICT c, int64_t ldc, TileC mode) {
  const TileD d;
  hn::Vec<TileD> sum[kRows][kVecs];
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) sum[i][v] = hn::Zero(d);
  }
  for (int64_t step = 0; step < k; ++step) {
    hn::Vec<TileD> b_vec[kVecs];
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) b_vec[v] = hn::LoadU(d, b + v * kLanes);
    HWY_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      const auto a_element = hn::Set(d, kLayout == TileA::kByColumns ? a[i] : a[i * a_step]);
      HWY_UNROLL(4)
      for (int v = 0; v < kVecs; ++v) sum[i][v] = hn::MulAdd(a_element, b_vec[v], sum[i][v]);
    }
    a += kLayout == TileA::kByColumns ? a_step : 1;
    b += b_step;
  }
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) {
      float* out = c + i * ldc + v * kLanes;
      if (bias != nullptr) sum[i][v] = hn::Add(sum[i][v], hn::LoadU(d, bias + v * kLanes));
      hn::StoreU(mode == TileC::kAdd ? hn::Add(hn::LoadU(d, out), sum[i][v]) : sum[i][v], d, out);
    }
  }
}

using TileFunction = void (*)(int64_t k, const float* a, int64_t a_step, const float* b, int64_t b_step,
                              const float* bias, float* c, int64_t ldc, TileC mode);

// ComputeTile for `rows` in [1, kTileRows] and `vecs` in [1, kTileVecs].
template <TileA kLayout>
HWY_INLINE TileFunction ChooseTile(int64_t rows, int64_t vecs) {
  constexpr auto kTable = []<size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array<TileFunction, sizeof...(kIndex)>{
        &ComputeTile<kLayout, kIndex / kTileVecs + 1, kIndex % kTileVecs + 1>...};
  }
  (std::make_index_sequence<size_t{kTileRows} * kTileVecs>());
  return kTable[static_cast<size_t>((rows - 1) * kTileVecs + vecs - 1)];
}

// Asks for the lines of [rows, columns], whose rows lie too far apart for the hardware to foresee.
HWY_INLINE void PrefetchRows(const float* matrix, int64_t step, int64_t rows, int64_t columns) {
  constexpr int64_t kLine = 16;  // floats
  for (int64_t i = 0; i < rows; ++i, matrix += step) {
    for (int64_t j = 0; j < columns; j += kLine) hwy::Prefetch(matrix + j);
  }
}

// Panels from rows that run along n (B [k, n]): out[(p * k + kk) * kPanel + j] = b[kk * ldb + p * kPanel + j], for all
// panels of [0, n); 0 beyond n. Eight rows at a time, so that reads and writes both come in runs; the next eight are
// asked for ahead, since rows that lie pages apart are not foreseen by the hardware.
HWY_INLINE void PackRows(int64_t k, int64_t n, const float* HWY_RESTRICT b, int64_t ldb, float* HWY_RESTRICT out) {
  const TileD d;
  constexpr int64_t kRun = 8;
  for (int64_t k0 = 0; k0 < k; k0 += kRun) {
    const int64_t k1 = k0 + kRun < k ? k0 + kRun : k;
    float* panel = out;
    for (int64_t j = 0; j < n; j += kPanel, panel += k * kPanel) {
      for (int64_t kk = k0; kk < k1; ++kk) {
        const float* from = b + kk * ldb + j;
        float* to = panel + kk * kPanel;
        for (int64_t line = 0; line < kPanel; line += 16) hwy::Prefetch(from + kRun * ldb + line);
        if (n - j >= kPanel) {
          for (int v = 0; v < kTileVecs; ++v) hn::Store(hn::LoadU(d, from + v * kLanes), d, to + v * kLanes);
        } else {
          for (int64_t jj = 0; jj < kPanel; ++jj) to[jj] = jj < n - j ? from[jj] : 0.0f;
        }
      }
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
// The four floats at rows[0], rows[stride], rows[2 * stride], ... as the 128-bit blocks of one vector.
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const float* rows, int64_t stride) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return hn::LoadU(d, rows);
  } else {
    const hn::Half<D> half;
    const int64_t half_blocks = static_cast<int64_t>(hn::MaxLanes(half)) / 4;
    return hn::Combine(d, LoadBlocks(half, rows + half_blocks * stride, stride), LoadBlocks(half, rows, stride));
  }
}

// Four steps of k for kLanes rows of B: to[s * kPanel + r] = from[r * ldb + s]. With row 4 g + r in block g of vector
// r, a 4x4 transpose inside the blocks leaves each vector in the order of the rows.
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT from, int64_t ldb, float* HWY_RESTRICT to) {
  const TileD d;
  const hn::Repartition<double, TileD> d64;
  const auto r0 = LoadBlocks(d, from, 4 * ldb), r1 = LoadBlocks(d, from + ldb, 4 * ldb);
  const auto r2 = LoadBlocks(d, from + 2 * ldb, 4 * ldb), r3 = LoadBlocks(d, from + 3 * ldb, 4 * ldb);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, to);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, to + kPanel);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, to + 2 * kPanel);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, to + 3 * kPanel);
}
#endif

// Panels from rows that run along k (B [n, k]): out[(p * k + kk) * kPanel + j] = b[(p * kPanel + j) * ldb + kk].
HWY_INLINE void PackColumns(int64_t k, int64_t n, const float* HWY_RESTRICT b, int64_t ldb, float* HWY_RESTRICT out) {
  for (int64_t j = 0; j < n; j += kLanes) {
    float* to = out + j / kPanel * k * kPanel + j % kPanel;
    const float* from = b + j * ldb;
    int64_t kk = 0;
#if HWY_TARGET != HWY_SCALAR
    if (n - j >= kLanes) {
      for (; kk + 4 <= k; kk += 4) TransposeFour(from + kk, ldb, to + kk * kPanel);
    }
#endif
    for (; kk < k; ++kk) {
      for (int64_t jj = 0; jj < kLanes; ++jj) to[kk * kPanel + jj] = jj < n - j ? from[jj * ldb + kk] : 0.0f;
    }
  }
  for (int64_t j = RoundUp(n, kLanes); j < RoundUp(n, kPanel); ++j) {
    float* to = out + j / kPanel * k * kPanel + j % kPanel;
    for (int64_t kk = 0; kk < k; ++kk) to[kk * kPanel] = 0.0f;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#endif  // SHARDIT_CORE_OPS_GEMM_TILE_INL_H_
