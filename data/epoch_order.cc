#include "data/epoch_order.h"

#include <cmath>
#include <utility>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/tensor/rng.h"

namespace shardit {
namespace {

// Smallest a with a * a >= count. The floating-point root of a large count may be off by one either way.
int64_t CeilSqrt(int64_t count) {
  auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(count)));
  while (root * root >= count) --root;
  while (root * root < count) ++root;
  return root;
}

// Round function: a 64-bit finaliser over half and key. Philox in every round would cost ten times as much; it makes
// the keys, where independence between epochs and seeds is decided.
inline uint32_t Mix(uint32_t half, uint64_t key) {
  uint64_t hash = half + key;
  hash ^= hash >> 32;
  hash *= 0xd6e8feb86659fd93ull;
  hash ^= hash >> 32;
  hash *= 0xd6e8feb86659fd93ull;
  return static_cast<uint32_t>(hash >> 32);
}

inline uint32_t AddModulo(uint32_t value, uint32_t offset, uint32_t modulus) {
  const uint64_t sum = uint64_t{value} + offset;
  return static_cast<uint32_t>(sum >= modulus ? sum - modulus : sum);
}

}  // namespace

EpochOrder::EpochOrder(uint64_t seed, uint64_t epoch, int64_t count) : count_(count) {
  CHECK(count >= 1 && count <= int64_t{1} << 62) << "[EpochOrder] count " << count;
  rows_ = static_cast<uint32_t>(CeilSqrt(count));
  columns_ = static_cast<uint32_t>(CeilDiv(count, int64_t{rows_}));
  const RngKey key{seed, RngPurpose::kEpochOrder, epoch};
  for (int round = 0; round < kRounds; round += 2) {
    const PhiloxBlock block = key.Block(static_cast<uint64_t>(round / 2));
    round_keys_[round] = uint64_t{block.word[1]} << 32 | block.word[0];
    round_keys_[round + 1] = uint64_t{block.word[3]} << 32 | block.word[2];
  }
}

int64_t EpochOrder::At(int64_t index) const {
  CHECK(index >= 0 && index < count_) << "[EpochOrder::At] index " << index << " of " << count_;
  auto value = static_cast<uint64_t>(index);
  do {
    auto row = static_cast<uint32_t>(value / columns_);
    auto column = static_cast<uint32_t>(value % columns_);
    for (int round = 0; round < kRounds; round += 2) {
      row = AddModulo(row, BoundedFromWord(Mix(column, round_keys_[round]), rows_), rows_);
      column = AddModulo(column, BoundedFromWord(Mix(row, round_keys_[round + 1]), columns_), columns_);
    }
    value = uint64_t{row} * columns_ + column;
  } while (value >= static_cast<uint64_t>(count_));
  return static_cast<int64_t>(value);
}

SampleStream::SampleStream(uint64_t seed, int64_t count) : seed_(seed), count_(count), order_(seed, 0, count) {}

int64_t SampleStream::SampleAt(uint64_t position) {
  const uint64_t epoch = EpochOf(position);
  if (epoch != epoch_) {
    order_ = EpochOrder(seed_, epoch, count_);
    epoch_ = epoch;
  }
  return order_.At(static_cast<int64_t>(position % static_cast<uint64_t>(count_)));
}

}  // namespace shardit
