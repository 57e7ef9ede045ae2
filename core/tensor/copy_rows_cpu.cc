#include <algorithm>
#include <cstring>

#include "core/tensor/copy_rows.h"

namespace shardit::cpu {

void CopyRows(const CopyRowsArgs& args, CpuContext& context) {
  const int64_t passes = args.accumulate ? 2 : 1;  // over the destination
  const double bytes = static_cast<double>((SizeOf(args.source.dtype()) + passes * SizeOf(args.destination.dtype())) *
                                           args.rows * args.count);
  if (context.Planned({"copy_rows", 0, bytes})) return;
  constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
  const int64_t grain = kGrain / std::max<int64_t>(1, args.count);
  context.pool.ParallelFor(args.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const float* from = args.source + n * args.source_stride;
      float* to = args.destination + n * args.destination_stride;
      if (args.accumulate) {
        for (int64_t i = 0; i < args.count; ++i) to[i] += from[i];
      } else {
        std::memcpy(to, from, static_cast<size_t>(args.count) * sizeof(float));
      }
    }
  });
}

}  // namespace shardit::cpu
