// CostRecorder: what kernels would have cost. While a training step is planned instead of run, every kernel records its
// cost here and returns without touching memory (core/base/cpu_context.h). Totals by kernel, and a clock that advances
// by each kernel's price, so that a planner can time any part of a step by reading it before and after.
//
// Not thread-safe: planning runs on one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <utility>

namespace shardit {

// One call of a kernel.
struct KernelCost {
  const char* kernel = "";  // string literal: "gemm_nt", "attention_fwd", ...
  double flops = 0;         // of products that the kernel computes: two to a multiply-accumulate, nothing else counted
  double bytes = 0;         // read and written, each operand once
};

class CostRecorder {
 public:
  using Price = std::function<double(const KernelCost&)>;  // seconds

  struct Total {
    int64_t calls = 0;
    double flops = 0;
    double bytes = 0;
    double seconds = 0;
  };

  // Without a price, time stands still.
  explicit CostRecorder(Price price = {}) : price_(std::move(price)) {}

  void Add(const KernelCost& cost) {
    const double seconds = price_ ? price_(cost) : 0.0;
    Total& total = totals_[cost.kernel];
    ++total.calls;
    total.flops += cost.flops;
    total.bytes += cost.bytes;
    total.seconds += seconds;
    seconds_ += seconds;
  }

  // Waiting: the clock does not go back.
  void AdvanceTo(double seconds) { seconds_ = std::max(seconds_, seconds); }

  // Seconds of everything recorded and waited for so far.
  double seconds() const { return seconds_; }
  const std::map<std::string_view, Total>& totals() const { return totals_; }
  void ClearTotals() { totals_.clear(); }

 private:
  const Price price_;
  std::map<std::string_view, Total> totals_;
  double seconds_ = 0;
};

}  // namespace shardit
