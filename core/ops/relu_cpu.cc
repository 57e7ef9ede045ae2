#include "core/ops/relu.h"

namespace shardit::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves

}  // namespace

void ReluFwd(const ReluFwdArgs& args, CpuContext& context) {
  if (context.Planned({"relu_fwd", 0, 8.0 * static_cast<double>(args.count)})) return;
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* x = args.x;
    float* y = args.y;
    for (int64_t i = begin; i < end; ++i) y[i] = x[i] < 0 ? 0.0f : x[i];  // false for a NaN
  });
}

void ReluBwd(const ReluBwdArgs& args, CpuContext& context) {
  if (context.Planned({"relu_bwd", 0, (args.accumulate ? 16.0 : 12.0) * static_cast<double>(args.count)})) return;
  context.pool.ParallelFor(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    const float *y = args.y, *dy = args.dy;
    float* dx = args.dx;
    if (args.accumulate) {
      for (int64_t i = begin; i < end; ++i) dx[i] += y[i] > 0 ? dy[i] : 0.0f;
    } else {
      for (int64_t i = begin; i < end; ++i) dx[i] = y[i] > 0 ? dy[i] : 0.0f;
    }
  });
}

}  // namespace shardit::cpu
