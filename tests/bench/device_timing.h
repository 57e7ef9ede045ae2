// Timing for benchmarks of device work, by events on its stream: warm-up, then the median and the least of single runs.
#pragma once

#include <algorithm>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/tensor/device_memory.h"
#include "tests/bench/timing.h"

namespace shardit::bench {

// `body` issues run i (from 0, the warm-up's included) on `stream`: it may take other memory than the runs before, so
// that nothing is found in a cache that a training step would not find there.
inline Timing MeasureOnDevice(Stream stream, int runs, absl::FunctionRef<void(int run)> body) {
  constexpr int kWarmUp = 5;
  std::vector<cuda::Event> begins, ends;
  for (int run = 0; run < kWarmUp + runs; ++run) {
    begins.push_back(cuda::Event::Make(stream.device, /*timing=*/true));
    ends.push_back(cuda::Event::Make(stream.device, /*timing=*/true));
    begins.back().Record(stream);
    body(run);
    ends.back().Record(stream);
  }
  cuda::Synchronize(stream);
  std::vector<double> times;
  for (size_t run = kWarmUp; run < begins.size(); ++run) times.push_back(1e-3 * begins[run].MillisecondsTo(ends[run]));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front()};
}

}  // namespace shardit::bench
