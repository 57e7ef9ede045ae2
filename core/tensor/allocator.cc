#include "core/tensor/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/tensor/device_memory.h"

namespace shardit {
namespace {

constexpr int64_t kAlignment = 64;
// Above what x86-64 and aarch64 map for a process without being asked to, below the bits that aarch64 ignores.
constexpr uintptr_t kPlannedBegin = uintptr_t{1} << 52;
constexpr uintptr_t kPlannedEnd = uintptr_t{1} << 53;

}  // namespace

std::string_view Name(MemoryOwner owner) {
  switch (owner) {
    case MemoryOwner::kWeights:
      return "weights";
    case MemoryOwner::kGradients:
      return "gradients";
    case MemoryOwner::kMoments:
      return "moments";
    case MemoryOwner::kEma:
      return "ema";
    case MemoryOwner::kActivations:
      return "activations";
    case MemoryOwner::kBuffers:
      return "buffers";
  }
  return "?";
}

Allocator::~Allocator() { Trim(); }

bool Allocator::IsPlanned(const void* address) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  return kPlannedBegin <= at && at < kPlannedEnd;
}

int64_t Allocator::RoundedSize(int64_t bytes) {
  const int64_t aligned = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  const int64_t octave = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(aligned)));
  return RoundUp(aligned, std::max(kAlignment, octave / 8));
}

void* Allocator::Allocate(int64_t bytes, MemoryOwner owner) {
  const int64_t size = RoundedSize(bytes);
  std::lock_guard lock(mutex_);
  stats_.bytes_in_use += size;
  stats_.in_use_by_owner[static_cast<size_t>(owner)] += size;
  if (stats_.bytes_in_use > stats_.peak_bytes_in_use) {
    stats_.peak_bytes_in_use = stats_.bytes_in_use;
    stats_.peak_by_owner = stats_.in_use_by_owner;
  }
  std::vector<void*>& free_blocks = cache_[size];
  if (!free_blocks.empty()) {
    void* block = free_blocks.back();
    free_blocks.pop_back();
    return block;
  }
  void* block = AskSystem(size);
  stats_.bytes_reserved += size;
  ++stats_.system_allocations;
  return block;
}

void* Allocator::AskSystem(int64_t size) {
  if (plan_ != nullptr) {
    const uintptr_t address = kPlannedBegin + static_cast<uintptr_t>(planned_bytes_);
    planned_bytes_ += size;
    CHECK(address + static_cast<uintptr_t>(size) <= kPlannedEnd) << "no planned addresses left";
    return reinterpret_cast<void*>(address);
  }
  void* block = device_.is_cpu() ? std::aligned_alloc(kAlignment, static_cast<size_t>(size))
                                 : cuda::AllocateDeviceMemory(device_, size);
  CHECK(block != nullptr) << "out of memory: " << size << " bytes requested, " << stats_.bytes_in_use - size
                          << " in use, " << stats_.bytes_reserved << " reserved on " << device_;
  return block;
}

void Allocator::Free(void* block, int64_t bytes, MemoryOwner owner) {
  const int64_t size = RoundedSize(bytes);
  std::lock_guard lock(mutex_);
  cache_[size].push_back(block);
  stats_.bytes_in_use -= size;
  stats_.in_use_by_owner[static_cast<size_t>(owner)] -= size;
}

AllocatorStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::ResetPeak() {
  std::lock_guard lock(mutex_);
  stats_.peak_bytes_in_use = stats_.bytes_in_use;
  stats_.peak_by_owner = stats_.in_use_by_owner;
}

void Allocator::Trim() {
  std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : cache_) {
    if (plan_ == nullptr) {
      for (void* block : blocks) device_.is_cpu() ? std::free(block) : cuda::FreeDeviceMemory(device_, block);
    }
    stats_.bytes_reserved -= size * static_cast<int64_t>(blocks.size());
  }
  cache_.clear();
}

}  // namespace shardit
