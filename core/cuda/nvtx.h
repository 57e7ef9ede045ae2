// NvtxRange: a named range of the host's time on a profiler's timeline, over the kernels that are issued within it.
// Costs some nanoseconds where no profiler is attached, and nothing in a build without CUDA code. In a replayed graph
// there is no host time between kernels: profile with graphs off to see these ranges.
#pragma once

namespace shardit {

class NvtxRange {
 public:
  // `name` is read at once.
  explicit NvtxRange(const char* name);
  ~NvtxRange();
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace shardit
