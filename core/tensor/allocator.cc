#include "core/tensor/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "core/base/check.h"
#include "core/base/math.h"

namespace shardit {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

Allocator::~Allocator() { Trim(); }

int64_t Allocator::RoundedSize(int64_t bytes) {
  const int64_t aligned = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  const int64_t octave = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(aligned)));
  return RoundUp(aligned, std::max(kAlignment, octave / 8));
}

void* Allocator::Allocate(int64_t bytes) {
  const int64_t size = RoundedSize(bytes);
  std::lock_guard lock(mutex_);
  stats_.bytes_in_use += size;
  stats_.peak_bytes_in_use = std::max(stats_.peak_bytes_in_use, stats_.bytes_in_use);
  std::vector<void*>& free_blocks = cache_[size];
  if (!free_blocks.empty()) {
    void* block = free_blocks.back();
    free_blocks.pop_back();
    return block;
  }
  CHECK(device_.is_cpu()) << "no allocator for device " << device_ << " in this build";
  void* block = std::aligned_alloc(kAlignment, static_cast<size_t>(size));
  CHECK(block != nullptr) << "out of memory: " << size << " bytes requested, " << stats_.bytes_in_use - size
                          << " in use, " << stats_.bytes_reserved << " reserved on " << device_;
  stats_.bytes_reserved += size;
  ++stats_.system_allocations;
  return block;
}

void Allocator::Free(void* block, int64_t bytes) {
  const int64_t size = RoundedSize(bytes);
  std::lock_guard lock(mutex_);
  cache_[size].push_back(block);
  stats_.bytes_in_use -= size;
}

AllocatorStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::ResetPeak() {
  std::lock_guard lock(mutex_);
  stats_.peak_bytes_in_use = stats_.bytes_in_use;
}

void Allocator::Trim() {
  std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : cache_) {
    for (void* block : blocks) std::free(block);
    stats_.bytes_reserved -= size * static_cast<int64_t>(blocks.size());
  }
  cache_.clear();
}

}  // namespace shardit
