#include "core/tensor/arena.h"

#include <iterator>

#include "core/base/check.h"

namespace shardit {

Arena::Arena(int64_t bytes) : bytes_(bytes) {
  if (bytes > 0) Insert(0, bytes);
}

void Arena::Insert(int64_t offset, int64_t bytes) {
  by_offset_.emplace(offset, bytes);
  by_size_.emplace(bytes, offset);
  free_bytes_ += bytes;
}

void Arena::Erase(std::map<int64_t, int64_t>::iterator part) {
  free_bytes_ -= part->second;
  by_size_.erase({part->second, part->first});
  by_offset_.erase(part);
}

std::optional<int64_t> Arena::Take(int64_t bytes) {
  const auto fit = by_size_.lower_bound({bytes, 0});
  if (fit == by_size_.end()) return std::nullopt;
  const auto [size, offset] = *fit;
  Erase(by_offset_.find(offset));
  if (size > bytes) Insert(offset + bytes, size - bytes);
  return offset;
}

void Arena::Give(int64_t offset, int64_t bytes) {
  const auto after = by_offset_.lower_bound(offset);
  CHECK(offset >= 0 && offset + bytes <= bytes_ && (after == by_offset_.end() || offset + bytes <= after->first))
      << "[arena] " << bytes << " bytes at " << offset << " are not taken";
  int64_t begin = offset, end = offset + bytes;
  if (after != by_offset_.begin()) {
    const auto before = std::prev(after);
    CHECK_LE(before->first + before->second, offset) << "[arena] bytes given back twice";
    if (before->first + before->second == offset) {
      begin = before->first;
      Erase(before);
    }
  }
  const auto next = by_offset_.find(end);
  if (next != by_offset_.end()) {
    end += next->second;
    Erase(next);
  }
  Insert(begin, end - begin);
}

}  // namespace shardit
