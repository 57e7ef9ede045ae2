#include "tests/cuda_emulator/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/settings.h"

namespace cuda_emulator {
namespace {

constexpr size_t kRegionBytes = size_t{256} << 30;
constexpr size_t kGranule = 16;
// Allocations of this size and more get pages of 2 MiB: opening and closing costs by the page.
constexpr size_t kLarge = size_t{256} << 10;
constexpr size_t kHugePage = size_t{2} << 20;
// Of the unused bytes before an allocation, those that hold the pattern.
constexpr size_t kCanaryBytes = 4096;
constexpr unsigned char kCanary = 0xC5;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

std::string Describe(const void* pointer, size_t bytes) {
  char text[80];
  std::snprintf(text, sizeof(text), "device memory of %zu bytes at %p", bytes, pointer);
  return text;
}

void Protect(char* begin, size_t bytes, int protection) {
  if (mprotect(begin, bytes, protection) != 0) Fatal("mprotect of device memory failed: too many allocations?");
}

}  // namespace

Memory& Memory::Instance() {
  static Memory* memory = new Memory;  // lives as long as anyone's static objects
  return *memory;
}

Memory::Memory() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), protection_(GlobalSettings().protection) {
  void* region = mmap(nullptr, kRegionBytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) Fatal("no addresses for device memory");
  // Aligned to the largest unit.
  region_ = reinterpret_cast<char*>(RoundUp(reinterpret_cast<size_t>(region), kHugePage));
  next_ = region_;
}

cudaError_t Memory::Allocate(size_t bytes, int device, void** pointer) {
  if (bytes == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  std::lock_guard lock(mutex_);
  size_t& used = used_[device];
  const size_t total = GlobalSettings().memory_bytes;
  if (bytes > total || used > total - bytes) return cudaErrorMemoryAllocation;
  const size_t unit = bytes >= kLarge ? kHugePage : page_;
  const size_t page_bytes = RoundUp(bytes, unit);
  char* pages = FindAddresses(page_bytes, unit);
  if (mmap(pages, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return cudaErrorMemoryAllocation;
  }
  if (unit == kHugePage) madvise(pages, page_bytes, MADV_HUGEPAGE);  // without it: slower
  char* begin = pages + page_bytes - RoundUp(bytes, kGranule);
  const size_t canaries = std::min(kCanaryBytes, static_cast<size_t>(begin - pages));
  std::memset(begin - canaries, kCanary, canaries);
  std::memset(begin, 0xFF, bytes);
  std::memset(begin + bytes, kCanary, static_cast<size_t>(pages + page_bytes - begin) - bytes);
  if (closed()) Protect(pages, page_bytes, PROT_NONE);
  allocations_[begin] = {pages, page_bytes, bytes, device};
  used += bytes;
  *pointer = begin;
  return cudaSuccess;
}

// Free addresses of `bytes` at a multiple of `unit`, with a guard page behind.
char* Memory::FindAddresses(size_t bytes, size_t unit) {
  char* const end = region_ + kRegionBytes;
  for (int round = 0; round < 2; ++round) {
    for (;;) {
      char* candidate = region_ + RoundUp(static_cast<size_t>(next_ - region_), unit);
      if (candidate > end || static_cast<size_t>(end - candidate) < bytes + page_) break;
      const auto after = allocations_.lower_bound(candidate);
      if (after == allocations_.end() || after->second.pages >= candidate + bytes + page_) {
        next_ = candidate + bytes + page_;
        return candidate;
      }
      next_ = after->second.pages + after->second.page_bytes + page_;
    }
    next_ = region_;
  }
  Fatal("no addresses left for device memory");
}

cudaError_t Memory::Free(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  std::lock_guard lock(mutex_);
  const auto found = allocations_.find(static_cast<const char*>(pointer));
  if (found == allocations_.end()) return cudaErrorInvalidValue;
  const Allocation allocation = found->second;
  if (closed()) Protect(allocation.pages, allocation.page_bytes, PROT_READ);
  CheckCanaries(found->first, allocation);
  void* released = mmap(allocation.pages, allocation.page_bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (released == MAP_FAILED) Fatal("releasing device memory failed");
  used_[allocation.device] -= allocation.bytes;
  allocations_.erase(found);
  return cudaSuccess;
}

void Memory::CheckCanaries() {
  std::lock_guard lock(mutex_);
  if (!used_since_check_) return;
  used_since_check_ = false;
  if (closed()) OpenPages(true);
  for (const auto& [begin, allocation] : allocations_) CheckCanaries(begin, allocation);
  if (closed()) OpenPages(false);
}

void Memory::CheckCanaries(const char* begin, const Allocation& allocation) const {
  const auto bad = [](char byte) { return static_cast<unsigned char>(byte) != kCanary; };
  const char* first = std::max<const char*>(allocation.pages, begin - kCanaryBytes);
  const char* before = std::find_if(first, begin, bad);
  if (before != begin) {
    Fatal("written out of bounds, " + std::to_string(begin - before) + " bytes before the begin of " +
          Describe(begin, allocation.bytes));
  }
  const char* end = begin + allocation.bytes;
  const char* limit = allocation.pages + allocation.page_bytes;
  const char* after = std::find_if(end, limit, bad);
  if (after != limit) {
    Fatal("written out of bounds, " + std::to_string(after - end) + " bytes behind the end of " +
          Describe(begin, allocation.bytes));
  }
}

void Memory::Usage(int device, size_t* used, size_t* total) {
  std::lock_guard lock(mutex_);
  *used = used_[device];
  *total = GlobalSettings().memory_bytes;
}

cudaError_t Memory::AllocatePinned(size_t bytes, void** pointer) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = std::aligned_alloc(page_, RoundUp(bytes, page_));
  if (*pointer == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xFF, bytes);
  std::lock_guard lock(mutex_);
  pinned_[static_cast<const char*>(*pointer)] = {bytes, false};
  return cudaSuccess;
}

cudaError_t Memory::FreePinned(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  {
    std::lock_guard lock(mutex_);
    const auto found = pinned_.find(static_cast<const char*>(pointer));
    if (found == pinned_.end() || found->second.registered) return cudaErrorInvalidValue;
    pinned_.erase(found);
  }
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t Memory::Register(void* pointer, size_t bytes) {
  if (pointer == nullptr || bytes == 0) return cudaErrorInvalidValue;
  if (Find(pointer) == Place::kPinned) return cudaErrorHostMemoryAlreadyRegistered;
  std::lock_guard lock(mutex_);
  pinned_[static_cast<const char*>(pointer)] = {bytes, true};
  return cudaSuccess;
}

cudaError_t Memory::Unregister(void* pointer) {
  std::lock_guard lock(mutex_);
  const auto found = pinned_.find(static_cast<const char*>(pointer));
  if (found == pinned_.end() || !found->second.registered) return cudaErrorHostMemoryNotRegistered;
  pinned_.erase(found);
  return cudaSuccess;
}

const Memory::Allocation* Memory::FindAllocation(const void* pointer) const {
  const char* address = static_cast<const char*>(pointer);
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return nullptr;
  --after;
  return address < after->first + after->second.bytes ? &after->second : nullptr;
}

Place Memory::Find(const void* pointer, int* device) {
  const char* address = static_cast<const char*>(pointer);
  std::lock_guard lock(mutex_);
  if (address >= region_ && address < region_ + kRegionBytes) {
    const Allocation* allocation = FindAllocation(pointer);
    if (device != nullptr) *device = allocation == nullptr ? 0 : allocation->device;
    return Place::kDevice;
  }
  auto after = pinned_.upper_bound(address);
  if (after == pinned_.begin()) return Place::kPageable;
  --after;
  return address < after->first + after->second.bytes ? Place::kPinned : Place::kPageable;
}

bool Memory::IsValidRange(const void* pointer, size_t bytes) {
  const char* address = static_cast<const char*>(pointer);
  std::lock_guard lock(mutex_);
  if (address + bytes <= region_ || address >= region_ + kRegionBytes) return true;
  const Allocation* allocation = FindAllocation(pointer);
  if (allocation == nullptr) return false;
  const char* begin = allocation->pages + allocation->page_bytes - RoundUp(allocation->bytes, kGranule);
  return static_cast<size_t>(begin + allocation->bytes - address) >= bytes;
}

void Memory::OpenPages(bool open) {
  if (open) {
    for (const auto& entry : allocations_) {
      Protect(entry.second.pages, entry.second.page_bytes, PROT_READ | PROT_WRITE);
    }
    return;
  }
  if (allocations_.empty()) return;
  char* begin = allocations_.begin()->second.pages;
  const Allocation& last = allocations_.rbegin()->second;
  Protect(begin, static_cast<size_t>(last.pages + last.page_bytes - begin), PROT_NONE);
}

void Memory::Open() {
  std::lock_guard lock(mutex_);
  if (closed()) OpenPages(true);
  ++open_count_;
  used_since_check_ = true;
}

void Memory::Close() {
  std::lock_guard lock(mutex_);
  --open_count_;
  if (closed()) OpenPages(false);
}

void Memory::SetProtection(bool on) {
  std::lock_guard lock(mutex_);
  const bool was_closed = closed();
  protection_ = on;
  if (was_closed != closed()) OpenPages(was_closed);
}

void Memory::SuspendProtection(bool suspend) {
  std::lock_guard lock(mutex_);
  const bool was_closed = closed();
  suspended_ += suspend ? 1 : -1;
  if (was_closed != closed()) OpenPages(was_closed);
}

void SetProtection(bool on) { Memory::Instance().SetProtection(on); }

}  // namespace cuda_emulator
