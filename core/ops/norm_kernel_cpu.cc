#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/ops/norm_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/norm_kernel_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

#ifndef SHARDIT_CORE_OPS_NORM_KERNEL_CPU_ONCE
#define SHARDIT_CORE_OPS_NORM_KERNEL_CPU_ONCE
namespace shardit::norm_internal {

constexpr int64_t kRunTokens = 32;   // tokens whose sums one thread makes in one go
constexpr int64_t kSumColumns = 64;  // columns of one item when partial sums are added up
constexpr int64_t kSumGroup = 16;    // partial sums added before they join the total
constexpr int64_t kGrain = 16384;    // elements: below it, waking a thread costs more than it saves

inline int64_t RunsPerImage(const NormShape& shape) { return CeilDiv(shape.tokens, kRunTokens); }

// Partial sums over runs of tokens, [images * runs per image, width] each; null where not wanted.
struct Partials {
  float* dscale = nullptr;
  float* dshift = nullptr;
  float* dgate = nullptr;
};

// Rows [first, first + count) of `from` summed into columns [begin, end) of `out`.
struct RowSum {
  const float* from = nullptr;
  int64_t width = 0;
  int64_t first = 0;
  int64_t count = 0;
  float* out = nullptr;
  bool accumulate = false;
};

}  // namespace shardit::norm_internal
#endif  // SHARDIT_CORE_OPS_NORM_KERNEL_CPU_ONCE

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using norm_internal::Partials;
using norm_internal::RowSum;

using Wide = hn::ScalableTag<float>;
using Single = hn::CappedTag<float, 1>;  // the columns left over

// Calls body(d, i) for the columns [begin, end), first whole vectors, then single lanes.
template <class Body>
HWY_INLINE void ForColumns(int64_t begin, int64_t end, const Body& body) {
  const Wide d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(d, i);
  for (; i < end; ++i) body(Single(), i);
}

// Sum over the row's columns of term(d, i).
template <class Term>
HWY_INLINE float SumRow(int64_t width, const Term& term) {
  const Wide d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    s0 = hn::Add(s0, term(d, i));
    s1 = hn::Add(s1, term(d, i + lanes));
    s2 = hn::Add(s2, term(d, i + 2 * lanes));
    s3 = hn::Add(s3, term(d, i + 3 * lanes));
  }
  for (; i + lanes <= width; i += lanes) s0 = hn::Add(s0, term(d, i));
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < width; ++i) sum += hn::GetLane(term(Single(), i));
  return sum;
}

void NormFwdRows(const NormFwdArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.shape.width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / args.shape.tokens;
    const float* x = args.x + row * width;
    const float* r = x;
    if (args.y != nullptr) {
      const float* y = args.y + row * width;
      const float* gate = args.gate.data == nullptr ? nullptr : args.gate.data + image * args.gate.stride;
      float* sum = args.r + row * width;
      ForColumns(0, width, [&](auto d, int64_t i) HWY_ATTR {
        const auto g = gate == nullptr ? hn::Set(d, 1.0f) : hn::LoadU(d, gate + i);
        hn::StoreU(hn::MulAdd(g, hn::LoadU(d, y + i), hn::LoadU(d, x + i)), d, sum + i);
      });
      r = sum;
    }
    if (args.h == nullptr) continue;
    const float mean =
        SumRow(width, [&](auto d, int64_t i) HWY_ATTR { return hn::LoadU(d, r + i); }) / static_cast<float>(width);
    const float variance = SumRow(width,
                                  [&](auto d, int64_t i) HWY_ATTR {
                                    const auto centred = hn::Sub(hn::LoadU(d, r + i), hn::Set(d, mean));
                                    return hn::Mul(centred, centred);
                                  }) /
                           static_cast<float>(width);
    const float rstd = 1.0f / std::sqrt(variance + args.eps);
    const float* scale = args.scale.data + image * args.scale.stride;
    const float* shift = args.shift.data + image * args.shift.stride;
    float* h = args.h + row * width;
    ForColumns(0, width, [&](auto d, int64_t i) HWY_ATTR {
      const auto xhat = hn::Mul(hn::Sub(hn::LoadU(d, r + i), hn::Set(d, mean)), hn::Set(d, rstd));
      const auto factor = hn::Add(hn::LoadU(d, scale + i), hn::Set(d, args.scale_offset));
      hn::StoreU(hn::MulAdd(xhat, factor, hn::LoadU(d, shift + i)), d, h + i);
    });
    if (args.mean != nullptr) {
      args.mean[row] = mean;
      args.rstd[row] = rstd;
    }
  }
}

// One token row of backward: its pointers and the scalars of dr = dr_in + rstd g - mean_term - slope xhat.
struct BwdRow {
  const float* dh;
  const float* dr_in;
  const float* r;
  const float* y;
  float* dx;
  float* dy;
  float mean;
  float rstd;
  float mean_term;  // rstd mean(g)
  float slope;      // rstd mean(g xhat)
};

// Rows of one image that are walked together, so that the sums over tokens are touched once for all of them.
struct BwdRows {
  const float* scale;
  float scale_offset;
  const float* gate;  // null: 1
  Partials sums;      // of this run of tokens; null where not wanted
};

template <class D>
HWY_INLINE void AddTo(D d, float* sum, hn::Vec<D> value) {
  hn::StoreU(hn::Add(hn::LoadU(d, sum), value), d, sum);
}

// Column(s) i of kRows rows: dx, dy and the contributions to the three sums over tokens.
template <bool kNorm, bool kGateGrad, int kRows, class D>
HWY_INLINE void BwdColumn(D d, int64_t i, const BwdRow* rows, const BwdRows& common) {
  auto dscale = hn::Zero(d), dshift = hn::Zero(d), dgate = hn::Zero(d);
  auto factor = hn::Zero(d);
  if constexpr (kNorm) factor = hn::Add(hn::LoadU(d, common.scale + i), hn::Set(d, common.scale_offset));
  const auto gate = common.gate == nullptr ? hn::Set(d, 1.0f) : hn::LoadU(d, common.gate + i);
  for (int k = 0; k < kRows; ++k) {
    const BwdRow& row = rows[k];
    auto dr = hn::Zero(d);
    if constexpr (kNorm) {
      const auto dh = hn::LoadU(d, row.dh + i);
      const auto rstd = hn::Set(d, row.rstd);
      const auto xhat = hn::Mul(hn::Sub(hn::LoadU(d, row.r + i), hn::Set(d, row.mean)), rstd);
      dscale = hn::MulAdd(dh, xhat, dscale);
      dshift = hn::Add(dshift, dh);
      dr = hn::MulSub(hn::Mul(dh, factor), rstd, hn::Set(d, row.mean_term));
      dr = hn::NegMulAdd(xhat, hn::Set(d, row.slope), dr);
    }
    // Not fused: the same bits as adding a finished gradient, so that recomputation changes nothing.
    if (row.dr_in != nullptr) dr = hn::Add(hn::LoadU(d, row.dr_in + i), dr);
    if constexpr (kGateGrad) dgate = hn::MulAdd(dr, hn::LoadU(d, row.y + i), dgate);
    if (row.dy != nullptr) hn::StoreU(hn::Mul(gate, dr), d, row.dy + i);
    hn::StoreU(dr, d, row.dx + i);
  }
  if (kNorm && common.sums.dscale != nullptr) AddTo(d, common.sums.dscale + i, dscale);
  if (kNorm && common.sums.dshift != nullptr) AddTo(d, common.sums.dshift + i, dshift);
  if (kGateGrad) AddTo(d, common.sums.dgate + i, dgate);
}

// The row's two means; they need a walk of their own before any dr can be known.
HWY_INLINE void FindRowTerms(BwdRow& row, const BwdRows& common, int64_t width) {
  const Wide d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto terms = [&](auto tag, int64_t i, auto& sum_g, auto& sum_gx) HWY_ATTR {
    const auto factor = hn::Add(hn::LoadU(tag, common.scale + i), hn::Set(tag, common.scale_offset));
    const auto g = hn::Mul(hn::LoadU(tag, row.dh + i), factor);
    sum_g = hn::Add(sum_g, g);
    sum_gx = hn::MulAdd(g, hn::Sub(hn::LoadU(tag, row.r + i), hn::Set(tag, row.mean)), sum_gx);
  };
  auto g0 = hn::Zero(d), g1 = hn::Zero(d), gx0 = hn::Zero(d), gx1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    terms(d, i, g0, gx0);
    terms(d, i + lanes, g1, gx1);
  }
  for (; i + lanes <= width; i += lanes) terms(d, i, g0, gx0);
  auto rest_g = hn::Zero(Single()), rest_gx = hn::Zero(Single());
  for (; i < width; ++i) terms(Single(), i, rest_g, rest_gx);
  const float sum_g = hn::GetLane(hn::SumOfLanes(d, hn::Add(g0, g1))) + hn::GetLane(rest_g);
  const float sum_gx = hn::GetLane(hn::SumOfLanes(d, hn::Add(gx0, gx1))) + hn::GetLane(rest_gx);
  row.mean_term = row.rstd * sum_g / static_cast<float>(width);
  row.slope = row.rstd * row.rstd * sum_gx / static_cast<float>(width);
}

template <bool kNorm, bool kGateGrad>
void NormBwdRun(const NormBwdArgs& args, const BwdRows& common, int64_t first_row, int64_t count) {
  const int64_t width = args.shape.width;
  constexpr int kGroup = 4;
  std::array<BwdRow, kGroup> rows;
  for (int64_t at = 0; at < count;) {
    const int group = count - at >= kGroup ? kGroup : 1;
    for (int k = 0; k < group; ++k) {
      const int64_t row = first_row + at + k, offset = row * width;
      BwdRow& to = rows[static_cast<size_t>(k)];
      to = {};
      to.dr_in = args.dr_in == nullptr ? nullptr : args.dr_in + offset;
      to.dx = args.dx + offset;
      to.dy = args.dy == nullptr ? nullptr : args.dy + offset;
      if constexpr (kGateGrad) to.y = args.y + offset;
      if constexpr (kNorm) {
        to.dh = args.dh + offset;
        to.r = args.r + offset;
        to.mean = args.mean[row];
        to.rstd = args.rstd[row];
        FindRowTerms(to, common, width);
      }
    }
    if (group == kGroup) {
      ForColumns(0, width,
                 [&](auto d, int64_t i) HWY_ATTR { BwdColumn<kNorm, kGateGrad, kGroup>(d, i, rows.data(), common); });
    } else {
      ForColumns(0, width,
                 [&](auto d, int64_t i) HWY_ATTR { BwdColumn<kNorm, kGateGrad, 1>(d, i, rows.data(), common); });
    }
    at += group;
  }
}

// Runs of tokens [begin, end), numbered through all images.
void NormBwdRuns(const NormBwdArgs& args, const Partials& partials, int64_t begin, int64_t end) {
  const auto& [images, tokens, width] = args.shape;
  const int64_t runs = norm_internal::RunsPerImage(args.shape);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / runs, first = item % runs * norm_internal::kRunTokens;
    BwdRows common{.scale = args.scale.data == nullptr ? nullptr : args.scale.data + image * args.scale.stride,
                   .scale_offset = args.scale_offset,
                   .gate = args.gate.data == nullptr ? nullptr : args.gate.data + image * args.gate.stride,
                   .sums = {}};
    const auto start_sum = [&](float* sums) -> float* {
      if (sums == nullptr) return nullptr;
      std::fill_n(sums + item * width, width, 0.0f);
      return sums + item * width;
    };
    common.sums = {start_sum(partials.dscale), start_sum(partials.dshift), start_sum(partials.dgate)};
    const int64_t first_row = image * tokens + first;
    const int64_t count = std::min(norm_internal::kRunTokens, tokens - first);
    const bool norm = args.dh != nullptr, gate_grad = partials.dgate != nullptr;
    if (norm && gate_grad) NormBwdRun<true, true>(args, common, first_row, count);
    if (norm && !gate_grad) NormBwdRun<true, false>(args, common, first_row, count);
    if (!norm && gate_grad) NormBwdRun<false, true>(args, common, first_row, count);
    if (!norm && !gate_grad) NormBwdRun<false, false>(args, common, first_row, count);
  }
}

void SumRows(const RowSum& sum, int64_t begin, int64_t end) {
  ForColumns(begin, end, [&](auto d, int64_t i) HWY_ATTR {
    auto total = hn::Zero(d);
    for (int64_t first = 0; first < sum.count; first += norm_internal::kSumGroup) {
      auto group = hn::Zero(d);
      for (int64_t row = first; row < std::min(sum.count, first + norm_internal::kSumGroup); ++row) {
        group = hn::Add(group, hn::LoadU(d, sum.from + (sum.first + row) * sum.width + i));
      }
      total = hn::Add(total, group);
    }
    if (sum.accumulate) total = hn::Add(total, hn::LoadU(d, sum.out + i));
    hn::StoreU(total, d, sum.out + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(NormFwdRows);
HWY_EXPORT(NormBwdRuns);
HWY_EXPORT(SumRows);

using norm_internal::Partials;
using norm_internal::RowSum;

// Adds up the runs of each image (or of all images) into the gradient's rows.
void SumPartials(const NormShape& shape, const float* partials, const ImageRowsGrad& grad, CpuContext& context) {
  if (grad.data == nullptr) return;
  const int64_t runs = norm_internal::RunsPerImage(shape);
  const bool one_row = grad.stride == 0;
  const int64_t rows = one_row ? 1 : shape.images;
  const int64_t blocks = CeilDiv(shape.width, norm_internal::kSumColumns);
  const int64_t summed = shape.images * runs * shape.width;
  const int64_t grain = summed < norm_internal::kGrain ? rows * blocks : 1;
  context.pool.ParallelFor(rows * blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / blocks, column = item % blocks * norm_internal::kSumColumns;
      const RowSum sum{.from = partials,
                       .width = shape.width,
                       .first = row * runs,
                       .count = one_row ? shape.images * runs : runs,
                       .out = grad.data + row * grad.stride,
                       .accumulate = grad.accumulate};
      HWY_DYNAMIC_DISPATCH(SumRows)(sum, column, std::min(shape.width, column + norm_internal::kSumColumns));
    }
  });
}

// `passes` over the tokens.
KernelCost CostOf(const char* name, const NormShape& shape, DType dtype, int passes) {
  return {name, 0, static_cast<double>(SizeOf(dtype) * passes * shape.images * shape.tokens * shape.width)};
}

}  // namespace

void NormFwd(const NormFwdArgs& args, CpuContext& context) {
  CHECK(args.y == nullptr || args.r != nullptr) << "[norm] a residual sum has nowhere to go";
  CHECK(args.h == nullptr || (args.scale.data != nullptr && args.shift.data != nullptr)) << "[norm] no scale or shift";
  const int passes = 1 + (args.y != nullptr ? 2 : 0) + (args.h != nullptr ? 1 : 0);
  if (context.Planned(CostOf("norm_fwd", args.shape, args.x.dtype(), passes))) return;
  const int64_t rows = args.shape.images * args.shape.tokens;
  const int64_t grain = std::max<int64_t>(1, norm_internal::kGrain / std::max<int64_t>(1, args.shape.width));
  context.pool.ParallelFor(rows, grain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(NormFwdRows)(args, begin, end);
  });
}

void NormBwd(const NormBwdArgs& args, CpuContext& context) {
  CHECK(args.dgate.data == nullptr || args.y != nullptr) << "[norm] the gate's gradient needs y";
  const int passes = 1 + (args.dh != nullptr ? 2 : 0) + (args.dr_in != nullptr ? 1 : 0) + (args.y != nullptr ? 1 : 0) +
                     (args.dy != nullptr ? 1 : 0);
  if (context.Planned(CostOf("norm_bwd", args.shape, args.dx.dtype(), passes))) return;
  const int64_t items = args.shape.images * norm_internal::RunsPerImage(args.shape);
  const int64_t sums = items * args.shape.width;
  float* scratch = context.workspace.SharedArea<float>(3 * sums);
  const bool norm = args.dh != nullptr;
  const Partials partials{.dscale = norm && args.dscale.data != nullptr ? scratch : nullptr,
                          .dshift = norm && args.dshift.data != nullptr ? scratch + sums : nullptr,
                          .dgate = args.dgate.data != nullptr ? scratch + 2 * sums : nullptr};
  const int64_t run_elements =
      std::max<int64_t>(1, std::min(args.shape.tokens, norm_internal::kRunTokens) * args.shape.width);
  context.pool.ParallelFor(items, norm_internal::kGrain / run_elements, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(NormBwdRuns)(args, partials, begin, end);
  });
  if (norm) {
    SumPartials(args.shape, partials.dscale, args.dscale, context);
    SumPartials(args.shape, partials.dshift, args.dshift, context);
  }
  SumPartials(args.shape, partials.dgate, args.dgate, context);
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
