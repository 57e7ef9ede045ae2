#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/math.h"
#include "core/ops/adamw.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/adamw_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

#ifndef SHARDIT_CORE_OPS_ADAMW_CPU_ONCE
#define SHARDIT_CORE_OPS_ADAMW_CPU_ONCE
namespace shardit::adamw_internal {

constexpr int64_t kSquareLanes = 16;  // running sums of squares: no fewer than any vector has lanes
constexpr int64_t kGrain = 16384;     // elements: below it, waking a thread costs more than it saves

}  // namespace shardit::adamw_internal
#endif  // SHARDIT_CORE_OPS_ADAMW_CPU_ONCE

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE void AdamwElements(D d, const AdamwEmaArgs& args, const AdamwScalars& c, int64_t i) {
  const auto g = hn::Mul(hn::LoadU(d, args.grad + i), hn::Set(d, c.grad_scale));
  const auto m = hn::MulAdd(hn::Set(d, c.one_minus_beta1), g, hn::Mul(hn::LoadU(d, args.m + i), hn::Set(d, c.beta1)));
  const auto v =
      hn::MulAdd(hn::Mul(g, g), hn::Set(d, c.one_minus_beta2), hn::Mul(hn::LoadU(d, args.v + i), hn::Set(d, c.beta2)));
  const auto denominator = hn::MulAdd(hn::Sqrt(v), hn::Set(d, c.inverse_root_correction2), hn::Set(d, c.eps));
  const auto kept = hn::Mul(hn::LoadU(d, args.param + i), hn::Set(d, c.keep));
  const auto p = hn::Sub(kept, hn::Div(hn::Mul(m, hn::Set(d, c.step)), denominator));
  hn::StoreU(m, d, args.m + i);
  hn::StoreU(v, d, args.v + i);
  hn::StoreU(p, d, args.param + i);
  if (args.ema != nullptr) {
    const auto ema = hn::Mul(hn::LoadU(d, args.ema + i), hn::Set(d, c.ema_decay));
    hn::StoreU(hn::MulAdd(p, hn::Set(d, c.one_minus_ema_decay), ema), d, args.ema + i);
  }
}

void AdamwRange(const AdamwEmaArgs& args, const AdamwScalars& constants, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) AdamwElements(d, args, constants, i);
  for (; i < end; ++i) AdamwElements(hn::CappedTag<float, 1>(), args, constants, i);
}

// Element i of a block goes to accumulator i mod kSquareLanes, and the accumulators are added pairwise: the same order
// on vectors of every width. A square of a float is exact in fp64, so a fused multiply-add rounds as a separate one
// does.
double SumSquaresOfBlock(const float* values, int64_t count) {
  constexpr int64_t kLanes = adamw_internal::kSquareLanes;
  const hn::CappedTag<double, kLanes> d;
  const hn::Rebind<float, decltype(d)> half;
  constexpr int64_t kVectors = kLanes / static_cast<int64_t>(hn::MaxLanes(d));
  constexpr int64_t kWidth = kLanes / kVectors;
  hn::Vec<decltype(d)> sums[kVectors];
  for (int64_t k = 0; k < kVectors; ++k) sums[k] = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t k = 0; k < kVectors; ++k) {
      const auto value = hn::PromoteTo(d, hn::LoadU(half, values + i + k * kWidth));
      sums[k] = hn::MulAdd(value, value, sums[k]);
    }
  }
  HWY_ALIGN double lanes[kLanes];
  for (int64_t k = 0; k < kVectors; ++k) hn::Store(sums[k], d, lanes + k * kWidth);
  for (int64_t k = 0; i + k < count; ++k) lanes[k] += double{values[i + k]} * double{values[i + k]};
  for (int64_t span = kLanes / 2; span > 0; span /= 2) {
    for (int64_t k = 0; k < span; ++k) lanes[k] += lanes[k + span];
  }
  return lanes[0];
}

void SumSquaresOfBlocks(const float* values, int64_t count, ExactSum& sum) {
  for (int64_t first = 0; first < count; first += cpu::kSquaresBlock) {
    sum.Add(SumSquaresOfBlock(values + first, std::min(cpu::kSquaresBlock, count - first)));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit {

AdamwScalars Narrowed(const AdamwEmaArgs& args) {
  const auto narrow = [](double value) { return static_cast<float>(value); };
  return {
      .grad_scale = narrow(args.grad_scale),
      .keep = narrow(1.0 - args.lr * args.weight_decay),
      .beta1 = narrow(args.beta1),
      .one_minus_beta1 = narrow(1.0 - args.beta1),
      .beta2 = narrow(args.beta2),
      .one_minus_beta2 = narrow(1.0 - args.beta2),
      .step = narrow(args.lr / args.bias_correction1),
      .inverse_root_correction2 = narrow(1.0 / std::sqrt(args.bias_correction2)),
      .eps = narrow(args.eps),
      .ema_decay = narrow(args.ema_decay),
      .one_minus_ema_decay = narrow(1.0 - args.ema_decay),
  };
}

namespace cpu {
namespace {

HWY_EXPORT(AdamwRange);
HWY_EXPORT(SumSquaresOfBlocks);

}  // namespace

void AdamwEma(const AdamwEmaArgs& args, CpuContext& context) { AdamwEma(args, Narrowed(args), context); }

void AdamwEma(const AdamwEmaArgs& args, const AdamwScalars& scalars, CpuContext& context) {
  const double bytes = (args.ema != nullptr ? 36.0 : 28.0) * static_cast<double>(args.count);
  if (context.Planned({"adamw_ema", 0, bytes})) return;
  context.pool.ParallelFor(args.count, adamw_internal::kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AdamwRange)(args, scalars, begin, end);
  });
}

void SumOfSquares(const float* values, int64_t count, CpuContext& context, ExactSum& sum) {
  if (context.Planned({"sum_of_squares", 0, 4.0 * static_cast<double>(count)})) return;
  std::vector<ExactSum> sums(static_cast<size_t>(context.pool.threads()));
  constexpr int64_t kGrainBlocks = adamw_internal::kGrain / cpu::kSquaresBlock;
  context.pool.ParallelFor(
      CeilDiv(count, cpu::kSquaresBlock), kGrainBlocks, [&](int64_t begin, int64_t end, int thread) {
        const int64_t first = begin * cpu::kSquaresBlock, last = std::min(end * cpu::kSquaresBlock, count);
        HWY_DYNAMIC_DISPATCH(SumSquaresOfBlocks)(values + first, last - first, sums[static_cast<size_t>(thread)]);
      });
  for (const ExactSum& part : sums) sum.Merge(part);
}

}  // namespace cpu
}  // namespace shardit
#endif  // HWY_ONCE
