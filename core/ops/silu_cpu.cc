#include <algorithm>

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

using Floats = hn::ScalableTag<float>;
constexpr int64_t kMaxLanes = static_cast<int64_t>(HWY_MAX_BYTES / sizeof(float));

// Calls body(i, lanes) for runs of elements, all of a whole vector but the last. Bodies compute whole vectors always:
// one of another width may round differently, and an element's bits must not depend on its place.
template <class Body>
HWY_INLINE void ForElements(int64_t begin, int64_t end, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(i, lanes);
  if (i < end) body(i, end - i);
}

HWY_INLINE hn::Vec<Floats> LoadFirst(const float* from, int64_t count) {
  const Floats d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, from);
  alignas(64) float buffer[kMaxLanes] = {};
  std::copy_n(from, count, buffer);
  return hn::Load(d, buffer);
}

HWY_INLINE void StoreFirst(hn::Vec<Floats> value, float* to, int64_t count) {
  const Floats d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::StoreU(value, d, to);
  alignas(64) float buffer[kMaxLanes];
  hn::Store(value, d, buffer);
  std::copy_n(buffer, count, to);
}

void SiluFwdRange(const SiluFwdArgs& args, int64_t begin, int64_t end) {
  ForElements(begin, end, [&](int64_t i, int64_t count) HWY_ATTR {
    StoreFirst(Silu(Floats(), LoadFirst(args.x + i, count)), args.y + i, count);
  });
}

void SiluBwdRange(const SiluBwdArgs& args, int64_t begin, int64_t end) {
  ForElements(begin, end, [&](int64_t i, int64_t count) HWY_ATTR {
    const auto slope = SiluGrad(Floats(), LoadFirst(args.x + i, count));
    auto dx = hn::Mul(LoadFirst(args.dy + i, count), slope);
    // Not fused: the same bits as adding a finished gradient, so that recomputation changes nothing.
    if (args.accumulate) dx = hn::Add(LoadFirst(args.dx + i, count), dx);
    StoreFirst(dx, args.dx + i, count);
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
  if (context.Planned({"silu_fwd", 0, 8.0 * static_cast<double>(args.count)})) return;
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SiluFwdRange)(args, begin, end);
  });
}

void SiluBwd(const SiluBwdArgs& args, CpuContext& context) {
  if (context.Planned({"silu_bwd", 0, (args.accumulate ? 16.0 : 12.0) * static_cast<double>(args.count)})) return;
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SiluBwdRange)(args, begin, end);
  });
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
