#include <algorithm>
#include <cstring>

#include "core/base/math.h"
#include "core/ops/embedding.h"

namespace shardit::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
constexpr int64_t kLine = 16;      // floats of a cache line: threads do not write to the same one

}  // namespace

void EmbeddingFwd(const EmbeddingFwdArgs& args, CpuContext& context) {
  if (context.Planned({"embedding_fwd", 0, 8.0 * static_cast<double>(args.count * args.width)})) return;
  const int64_t grain = kGrain / std::max<int64_t>(1, args.width);
  context.pool.ParallelFor(args.count, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t id = args.ids[n];
      CHECK(id >= 0 && id < args.rows) << "[embedding] id " << id << " at " << n << ", the table has " << args.rows
                                       << " rows";
      std::memcpy(args.y + n * args.width, args.table + id * args.width,
                  static_cast<size_t>(args.width) * sizeof(float));
    }
  });
}

// Threads share out the columns, so that every column is summed in the order of n.
void EmbeddingBwd(const EmbeddingBwdArgs& args, CpuContext& context) {
  const int64_t lines = CeilDiv(args.width, kLine);
  const int64_t rows_touched = args.count + (args.accumulate ? 0 : args.rows);
  if (context.Planned({"embedding_bwd", 0, 8.0 * static_cast<double>(rows_touched * args.width)})) return;
  const int64_t grain = rows_touched * args.width < kGrain ? lines : 1;
  context.pool.ParallelFor(lines, grain, [&](int64_t begin_line, int64_t end_line, int) {
    const int64_t begin = begin_line * kLine, end = std::min(args.width, end_line * kLine);
    if (!args.accumulate) {
      for (int64_t row = 0; row < args.rows; ++row) {
        std::memset(args.dtable + row * args.width + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
      }
    }
    for (int64_t n = 0; n < args.count; ++n) {
      float* to = args.dtable + int64_t{args.ids[n]} * args.width;
      const float* from = args.dy + n * args.width;
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
  });
}

}  // namespace shardit::cpu
