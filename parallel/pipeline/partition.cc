#include "parallel/pipeline/partition.h"

#include <algorithm>
#include <limits>

#include "core/base/check.h"

namespace shardit {
namespace {

// What a cut into ranges of bounded cost is judged by, lexicographically. Ends are exact; squares are a double because
// those of FLOP counts leave 64 bits.
struct Merit {
  int64_t ends = 0;
  double squares = 0;
  auto operator<=>(const Merit&) const = default;
};
constexpr Merit kImpossible{std::numeric_limits<int64_t>::max(), 0};

class Partitioner {
 public:
  Partitioner(std::span<const int64_t> costs, int parts)
      : units_(static_cast<int>(costs.size())), parts_(parts), sums_{0} {
    for (const int64_t cost : costs) {
      CHECK_GE(cost, 0);
      sums_.push_back(sums_.back() + cost);
    }
  }

  std::vector<Range> Run() {
    largest_ = LeastLargest();
    // best[k][i]: of the units from i on, cut into the last parts_ - k ranges.
    std::vector<std::vector<Merit>> best(parts_ + 1, std::vector<Merit>(units_ + 1, kImpossible));
    std::vector<std::vector<int>> end(parts_, std::vector<int>(units_ + 1, 0));
    best[parts_][units_] = {};
    for (int k = parts_ - 1; k >= 0; --k) {
      for (int i = units_ - 1; i >= 0; --i) {
        for (int j = i + 1; j <= units_ && Cost(i, j) <= largest_; ++j) {
          if (best[k + 1][j] == kImpossible) continue;
          const Merit merit = Extend(best[k + 1][j], k, Cost(i, j));
          if (merit < best[k][i]) {
            best[k][i] = merit;
            end[k][i] = j;
          }
        }
      }
    }
    std::vector<Range> ranges;
    for (int k = 0, i = 0; k < parts_; ++k) {
      ranges.push_back({i, end[k][i]});
      i = end[k][i];
    }
    return ranges;
  }

 private:
  int64_t Cost(int begin, int end) const { return sums_[end] - sums_[begin]; }

  Merit Extend(const Merit& rest, int part, int64_t cost) const {
    const bool is_end = part == 0 || part == parts_ - 1;
    return {rest.ends + (is_end ? cost : 0), rest.squares + static_cast<double>(cost) * static_cast<double>(cost)};
  }

  // Whether non-empty ranges of at most `bound` exist: taking as many units as fit is never worse, and n units can
  // always be cut finer, down to n ranges.
  bool Fits(int64_t bound) const {
    int ranges = 0;
    for (int i = 0; i < units_; ++ranges) {
      const int begin = i;
      while (i < units_ && Cost(begin, i + 1) <= bound) ++i;
      if (i == begin) return false;
    }
    return ranges <= parts_;
  }
  int64_t LeastLargest() const {
    int64_t low = 0, high = sums_.back();
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      Fits(middle) ? high = middle : low = middle + 1;
    }
    return low;
  }

  const int units_;
  const int parts_;
  std::vector<int64_t> sums_;  // of the units before each
  int64_t largest_ = 0;
};

}  // namespace

std::vector<Range> BalancedPartition(std::span<const int64_t> costs, int parts) {
  CHECK(parts >= 1 && parts <= static_cast<int>(costs.size()))
      << "[partition] " << costs.size() << " units into " << parts << " ranges";
  return Partitioner(costs, parts).Run();
}

}  // namespace shardit
