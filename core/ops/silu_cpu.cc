#include "core/ops/silu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/silu_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "core/ops/cpu_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

// Whole vectors, then single lanes through the same arithmetic.
template <class Body>
HWY_INLINE void ForElements(int64_t begin, int64_t end, const Body& body) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(d, i);
  for (; i < end; ++i) body(hn::CappedTag<float, 1>(), i);
}

void SiluFwdRange(const SiluFwdArgs& args, int64_t begin, int64_t end) {
  ForElements(begin, end,
              [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(Silu(d, hn::LoadU(d, args.x + i)), d, args.y + i); });
}

void SiluBwdRange(const SiluBwdArgs& args, int64_t begin, int64_t end) {
  ForElements(begin, end, [&](auto d, int64_t i) HWY_ATTR {
    const auto slope = SiluGrad(d, hn::LoadU(d, args.x + i));
    const auto before = args.accumulate ? hn::LoadU(d, args.dx + i) : hn::Zero(d);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, args.dy + i), slope, before), d, args.dx + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(SiluFwdRange);
HWY_EXPORT(SiluBwdRange);

constexpr int64_t kGrain = 4096;  // elements: below it, waking a thread costs more than it saves

}  // namespace

void SiluFwd(const SiluFwdArgs& args, CpuContext& context) {
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SiluFwdRange)(args, begin, end);
  });
}

void SiluBwd(const SiluBwdArgs& args, CpuContext& context) {
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SiluBwdRange)(args, begin, end);
  });
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
