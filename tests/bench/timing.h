// Timing for the kernel benchmarks: warm-up, then the median and the least of repeated runs. Times of one thread are
// its processor time, which other programs on the machine do not lengthen; times of several threads are wall time.
#pragma once

#include <time.h>

#include <algorithm>
#include <vector>

#include "absl/functional/function_ref.h"

namespace shardit::bench {

struct Timing {
  double median = 0;  // seconds
  double least = 0;   // seconds
};

inline double Now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Runs `body` until `runs` timings are taken; short bodies are repeated within one timing (to 200 us and more).
inline Timing Measure(int threads, int runs, absl::FunctionRef<void()> body) {
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  body();
  double begin = Now(clock);
  body();
  const int repeats = std::clamp(static_cast<int>(200e-6 / (Now(clock) - begin + 1e-9)), 1, 1000);
  std::vector<double> times;
  for (int run = 0; run < runs; ++run) {
    begin = Now(clock);
    for (int i = 0; i < repeats; ++i) body();
    times.push_back((Now(clock) - begin) / repeats);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front()};
}

}  // namespace shardit::bench
