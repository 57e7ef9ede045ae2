#include "core/ops/batch_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/batch_norm_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include <cmath>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE void NormaliseAt(D d, const float* x, const float* factor, const float* shift, bool relu, float* y) {
  // Not fused: an instruction set without it gives the same bits.
  auto value = hn::Add(hn::Mul(hn::LoadU(d, x), hn::LoadU(d, factor)), hn::LoadU(d, shift));
  if (relu) value = hn::IfThenZeroElse(hn::Lt(value, hn::Zero(d)), value);  // false for a NaN
  hn::StoreU(value, d, y);
}

// Rows [begin, end); `factors` are the factors of all channels, then the shifts.
void BatchNormRows(const BatchNormArgs& args, const float* factors, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> single;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), channels = args.channels;
  const float* shifts = factors + channels;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = args.x + row * channels;
    float* y = args.y + row * channels;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) NormaliseAt(d, x + c, factors + c, shifts + c, args.relu, y + c);
    for (; c < channels; ++c) NormaliseAt(single, x + c, factors + c, shifts + c, args.relu, y + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit::cpu {
namespace {

HWY_EXPORT(BatchNormRows);

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves

}  // namespace

void BatchNorm(const BatchNormArgs& args, CpuContext& context) {
  const int64_t channels = args.channels;
  if (context.Planned({"batch_norm", 0, 8.0 * static_cast<double>(args.rows * channels)})) return;
  float* factors = context.workspace.SharedArea<float>(2 * channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double gamma = args.gamma == nullptr ? 1 : args.gamma[c], beta = args.beta == nullptr ? 0 : args.beta[c];
    const double factor = gamma / std::sqrt(args.variance[c] + args.epsilon);
    factors[c] = static_cast<float>(factor);
    factors[channels + c] = static_cast<float>(beta - args.mean[c] * factor);
  }
  context.pool.ParallelFor(args.rows, kGrain / channels, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(BatchNormRows)(args, factors, begin, end);
  });
}

}  // namespace shardit::cpu
#endif  // HWY_ONCE
