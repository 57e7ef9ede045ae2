#include "core/cuda/trial.h"

#include <algorithm>
#include <array>

#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

constexpr int kTimings = 5;

}  // namespace

double TimeOnStream(Stream stream, absl::FunctionRef<void()> body) {
  Event begin = Event::Make(stream.device, /*timing=*/true), end = Event::Make(stream.device, /*timing=*/true);
  const auto time = [&](int repeats) {
    begin.Record(stream);
    for (int i = 0; i < repeats; ++i) body();
    end.Record(stream);
    end.Synchronize();  // the time is not there before
    return 1e3 * static_cast<double>(begin.MillisecondsTo(end)) / repeats;
  };
  body();
  // Of one short piece of work most would be the time between launches.
  const int repeats = std::clamp(static_cast<int>(200 / std::max(time(1), 1.0)), 1, 20);
  std::array<double, kTimings> times;
  for (double& microseconds : times) microseconds = time(repeats);
  std::sort(times.begin(), times.end());
  return times[kTimings / 2];
}

}  // namespace shardit::cuda
