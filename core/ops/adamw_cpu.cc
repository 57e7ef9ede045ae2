#include <algorithm>
#include <cmath>

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

constexpr int64_t kSumBlock = 4096;  // elements whose squares are summed in one go
constexpr int64_t kGrain = 16384;    // elements: below it, waking a thread costs more than it saves

struct Constants {
  float grad_scale, keep, beta1, one_minus_beta1, beta2, one_minus_beta2, step, inverse_root_correction2, eps,
      ema_decay, one_minus_ema_decay;
};

}  // namespace shardit::adamw_internal
#endif  // SHARDIT_CORE_OPS_ADAMW_CPU_ONCE

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE void AdamwElements(D d, const AdamwEmaArgs& args, const adamw_internal::Constants& c, int64_t i) {
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

void AdamwRange(const AdamwEmaArgs& args, const adamw_internal::Constants& constants, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) AdamwElements(d, args, constants, i);
  for (; i < end; ++i) AdamwElements(hn::CappedTag<float, 1>(), args, constants, i);
}

double SumOfSquaresRange(const float* values, int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  const auto add = [&](auto& sum, int64_t i) HWY_ATTR {
    const auto value = hn::PromoteTo(d, hn::LoadU(half, values + i));
    sum = hn::MulAdd(value, value, sum);
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    add(s0, i);
    add(s1, i + lanes);
    add(s2, i + 2 * lanes);
    add(s3, i + 3 * lanes);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < count; ++i) sum += double{values[i]} * double{values[i]};
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(AdamwRange);
HWY_EXPORT(SumOfSquaresRange);

}  // namespace

void AdamwEma(const AdamwEmaArgs& args, CpuContext& context) {
  const double bytes = (args.ema != nullptr ? 36.0 : 28.0) * static_cast<double>(args.count);
  if (context.Planned({"adamw_ema", 0, bytes})) return;
  const auto narrow = [](double value) { return static_cast<float>(value); };
  const adamw_internal::Constants constants{
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
  context.pool.ParallelFor(args.count, adamw_internal::kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AdamwRange)(args, constants, begin, end);
  });
}

SumOfSquaresResult SumOfSquares(const float* values, int64_t count, CpuContext& context) {
  if (context.Planned({"sum_of_squares", 0, 4.0 * static_cast<double>(count)})) return {};
  constexpr int64_t kBlock = adamw_internal::kSumBlock;
  const int64_t blocks = CeilDiv(count, kBlock);
  double* sums = context.workspace.SharedArea<double>(blocks);
  context.pool.ParallelFor(blocks, adamw_internal::kGrain / kBlock, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlock;
      sums[block] = HWY_DYNAMIC_DISPATCH(SumOfSquaresRange)(values + first, std::min(kBlock, count - first));
    }
  });
  SumOfSquaresResult result;
  for (int64_t block = 0; block < blocks; ++block) result.sum += sums[block];
  // The square of a finite float is far below fp64's range, so only a non-finite value can make the sum one.
  result.finite = std::isfinite(result.sum);
  return result;
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
