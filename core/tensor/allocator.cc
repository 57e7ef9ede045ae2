#include "core/tensor/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iomanip>
#include <optional>
#include <sstream>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/tensor/device_memory.h"

namespace shardit {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kGpuGranule = 512;                  // bytes: what CUDA's own allocations are aligned to
constexpr int64_t kRegionBytes = int64_t{256} << 20;  // what a GPU is asked for at least, where nothing was reserved
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

int64_t Allocator::RoundedSize(int64_t bytes) const {
  if (!device_.is_cpu()) return RoundUp(std::max<int64_t>(bytes, 1), kGpuGranule);
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
  return device_.is_cpu() || plan_ != nullptr ? TakeBlock(size) : FromRegions(size);
}

void* Allocator::TakeBlock(int64_t size) {
  std::vector<void*>& free_blocks = cache_[size];
  if (!free_blocks.empty()) {
    void* block = free_blocks.back();
    free_blocks.pop_back();
    return block;
  }
  void* block = plan_ != nullptr ? PlannedBlock(size) : std::aligned_alloc(kAlignment, static_cast<size_t>(size));
  if (block == nullptr) OutOfMemory(size);
  stats_.bytes_reserved += size;
  ++stats_.system_allocations;
  return block;
}

void* Allocator::PlannedBlock(int64_t size) {
  const uintptr_t address = kPlannedBegin + static_cast<uintptr_t>(planned_bytes_);
  planned_bytes_ += size;
  CHECK(address + static_cast<uintptr_t>(size) <= kPlannedEnd) << "no planned addresses left";
  return reinterpret_cast<void*>(address);
}

// The first region that has room: later ones came when the earlier were full.
void* Allocator::FromRegions(int64_t size) {
  for (Region& region : regions_) {
    if (const std::optional<int64_t> offset = region.arena.Take(size)) return region.begin + *offset;
  }
  if (!AddRegion(std::max(size, kRegionBytes)) && !AddRegion(size)) OutOfMemory(size);
  return regions_.back().begin + *regions_.back().arena.Take(size);
}

bool Allocator::AddRegion(int64_t size) {
  void* begin = cuda::AllocateDeviceMemory(device_, size);
  if (begin == nullptr) return false;
  regions_.push_back({static_cast<char*>(begin), size, Arena(size)});
  stats_.bytes_reserved += size;
  ++stats_.system_allocations;
  return true;
}

void Allocator::Reserve(int64_t bytes) {
  CHECK(!device_.is_cpu() && plan_ == nullptr) << "[allocator] memory is reserved on GPUs only";
  std::lock_guard lock(mutex_);
  const int64_t size = RoundedSize(bytes);
  if (!AddRegion(size)) OutOfMemory(size);
}

void Allocator::OutOfMemory(int64_t size) const {
  constexpr double kMiB = 1024.0 * 1024.0;
  std::ostringstream table;
  table << std::fixed << std::setprecision(1);
  for (size_t i = 0; i < stats_.in_use_by_owner.size(); ++i) {
    if (stats_.in_use_by_owner[i] == 0) continue;
    table << "\n  " << std::left << std::setw(12) << Name(static_cast<MemoryOwner>(i)) << std::right << std::setw(12)
          << static_cast<double>(stats_.in_use_by_owner[i]) / kMiB << " MiB";
  }
  table << "\n  reserved    " << std::setw(12) << static_cast<double>(stats_.bytes_reserved) / kMiB << " MiB";
  if (!device_.is_cpu()) {
    const cuda::DeviceMemoryInfo memory = cuda::MemoryInfo(device_);
    table << "\n  free        " << std::setw(12) << static_cast<double>(memory.free_bytes) / kMiB << " MiB of "
          << static_cast<double>(memory.total_bytes) / kMiB;
  }
  if (advice_) table << '\n' << advice_();
  CHECK(false) << "out of memory on " << device_ << ": " << size
               << " bytes asked for; in use with them, by owner:" << table.str();
  std::abort();
}

void Allocator::Free(void* block, int64_t bytes, MemoryOwner owner) {
  const int64_t size = RoundedSize(bytes);
  std::lock_guard lock(mutex_);
  stats_.bytes_in_use -= size;
  stats_.in_use_by_owner[static_cast<size_t>(owner)] -= size;
  if (device_.is_cpu() || plan_ != nullptr) {
    cache_[size].push_back(block);
    return;
  }
  for (Region& region : regions_) {
    const int64_t offset = static_cast<char*>(block) - region.begin;
    if (offset >= 0 && offset < region.bytes) return region.arena.Give(offset, size);
  }
  CHECK(false) << "[allocator] a block of another allocator was freed";
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
      for (void* block : blocks) std::free(block);
    }
    stats_.bytes_reserved -= size * static_cast<int64_t>(blocks.size());
  }
  cache_.clear();
  std::erase_if(regions_, [this](const Region& region) {
    if (!region.arena.unused()) return false;
    cuda::FreeDeviceMemory(device_, region.begin);
    stats_.bytes_reserved -= region.bytes;
    return true;
  });
}

}  // namespace shardit
