// The order of samples: a keyed permutation of [0, N) for every epoch, with no table and no state. Position g of the
// endless sample stream is epoch g / N and sample perm_epoch(g mod N), so any rank can find any position at once, and a
// run may resume at any step on any layout.
//
// The permutation is an alternating unbalanced Feistel network over the grid a x b with a = ceil(sqrt(N)),
// b = ceil(N / a) (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002): fewer than a cells lie
// outside [0, N), and a value that lands there walks on along its cycle. Round keys are Philox words of (seed,
// RngPurpose::kEpochOrder, epoch). The order is part of what a resumed run must see again: never change it.
#pragma once

#include <array>
#include <cstdint>

namespace shardit {

// One epoch's permutation. Immutable; a few dozen bytes; building it costs eight Philox blocks.
class EpochOrder {
 public:
  // count = N, in [1, 2^62].
  EpochOrder(uint64_t seed, uint64_t epoch, int64_t count);

  // The sample at place `index` of the epoch; index in [0, N). O(1).
  int64_t At(int64_t index) const;

 private:
  static constexpr int kRounds = 16;
  int64_t count_;
  uint32_t rows_, columns_;  // a, b
  std::array<uint64_t, kRounds> round_keys_;
};

// The endless stream. Keeps the permutation of the epoch it last served: one per thread.
class SampleStream {
 public:
  SampleStream(uint64_t seed, int64_t count);

  uint64_t EpochOf(uint64_t position) const { return position / static_cast<uint64_t>(count_); }
  int64_t SampleAt(uint64_t position);

 private:
  uint64_t seed_;
  int64_t count_;
  uint64_t epoch_ = 0;
  EpochOrder order_;
};

}  // namespace shardit
