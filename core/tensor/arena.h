// Arena: which part of one large region of memory is free. Best fit, lowest address first among equals, neighbours
// joined when they are given back: the same requests in the same order get the same places, so that a training step
// with static shapes lies where it lay the step before. Pure bookkeeping: it owns no memory. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace shardit {

class Arena {
 public:
  // Of `bytes`, all of them free.
  explicit Arena(int64_t bytes);

  // The offset of `bytes` > 0 free bytes, taken; nullopt where no free part is that large.
  std::optional<int64_t> Take(int64_t bytes);
  // Gives back what Take gave, whole.
  void Give(int64_t offset, int64_t bytes);

  int64_t free_bytes() const { return free_bytes_; }
  int64_t largest_free() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
  bool unused() const { return free_bytes_ == bytes_; }

 private:
  void Insert(int64_t offset, int64_t bytes);
  void Erase(std::map<int64_t, int64_t>::iterator part);

  int64_t bytes_;
  int64_t free_bytes_ = 0;
  std::map<int64_t, int64_t> by_offset_;           // offset -> bytes, of free parts; no two of them touch
  std::set<std::pair<int64_t, int64_t>> by_size_;  // (bytes, offset)
};

}  // namespace shardit
