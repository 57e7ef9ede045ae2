#include "core/ops/gated_residual.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/gated_residual_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void AddRange(const float* a, const float* b, float* out, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
  for (; i < end; ++i) out[i] = a[i] + b[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(AddRange);

}  // namespace

void Add(const AddArgs& args, CpuContext& context) {
  const auto& [a, b, out, count] = args;
  if (context.Planned({"add", 0, static_cast<double>(3 * SizeOf(out.dtype()) * count)})) return;
  constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
  context.pool.ParallelFor(count, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AddRange)(a, b, out, begin, end);
  });
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
