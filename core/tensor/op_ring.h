// The last operations of a rank, for reports after an abort or a hang. Writing one entry is two stores; names are
// string literals and are never copied. One writer; a reader on another thread may see the newest entry torn, which a
// report can bear.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace shardit {

class OpRing {
 public:
  static constexpr uint64_t kSize = 256;

  void Record(const char* name) {
    const uint64_t next = next_.load(std::memory_order_relaxed);
    names_[next % kSize].store(name, std::memory_order_relaxed);
    next_.store(next + 1, std::memory_order_release);
  }

  uint64_t recorded() const { return next_.load(std::memory_order_acquire); }

  // The newest operations, oldest first; at most kSize.
  std::vector<const char*> Last() const {
    const uint64_t end = recorded();
    std::vector<const char*> names;
    for (uint64_t i = end > kSize ? end - kSize : 0; i < end; ++i) {
      names.push_back(names_[i % kSize].load(std::memory_order_relaxed));
    }
    return names;
  }

 private:
  std::array<std::atomic<const char*>, kSize> names_{};
  std::atomic<uint64_t> next_{0};
};

}  // namespace shardit
