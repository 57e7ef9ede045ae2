// The memory of one rank. On the CPU a caching allocator of size-classed blocks; on a GPU a few large regions with an
// arena each (core/tensor/arena.h), so that memory is not lost between size classes. After the first steps of a
// training run with static shapes every request is served from what came back, at the same addresses, and the system is
// not asked again; tests assert it through stats().system_allocations.
//
// Every block has an owner, what it is kept for: the tag that was set when it was allocated (MemoryOwnerScope), by
// default activations.
//
// A planning allocator does the same sums for blocks that nothing backs: addresses are unique, aligned, outside of what
// a process can map, and never to be read or written. Tensors in it know (Tensor::plan).
//
// Thread-safe; the owner tag is the compute thread's to set. Blocks are 64-byte aligned, on a GPU 512. Freed blocks are
// kept until the allocator dies or Trim() is called.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/cost_recorder.h"
#include "core/tensor/arena.h"
#include "core/tensor/device.h"

namespace shardit {

enum class MemoryOwner : uint8_t { kWeights, kGradients, kMoments, kEma, kActivations, kBuffers };
inline constexpr int kMemoryOwners = 6;
using BytesByOwner = std::array<int64_t, kMemoryOwners>;

// "weights", "gradients", "moments", "ema", "activations", "buffers".
std::string_view Name(MemoryOwner owner);

struct AllocatorStats {
  int64_t bytes_in_use = 0;        // requested by live blocks, rounded up to the size class
  int64_t peak_bytes_in_use = 0;   // high-water mark of bytes_in_use since construction or ResetPeak()
  int64_t bytes_reserved = 0;      // held from the system: live and cached blocks
  int64_t system_allocations = 0;  // calls that had to ask the system
  BytesByOwner in_use_by_owner{};  // parts of bytes_in_use
  BytesByOwner peak_by_owner{};    // parts of peak_bytes_in_use: as it was first reached
};

class Allocator {
 public:
  // With `plan`, which outlives it, a planning allocator. On a GPU, blocks are for use in the order of `stream`: one
  // that is freed may be given out again at once.
  explicit Allocator(Device device, CostRecorder* plan = nullptr, Stream stream = {})
      : device_(device), plan_(plan), stream_(stream) {}
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  Device device() const { return device_; }
  Stream stream() const { return stream_; }
  // Not null where this is a planning allocator.
  CostRecorder* plan() const { return plan_; }
  // True for the addresses that planning allocators give out.
  static bool IsPlanned(const void* address);

  // Never null; running out of memory ends the process with the allocator's statistics by owner, and what the report
  // below has to say. bytes == 0 gives a valid block.
  // `owner` is given back to Free.
  void* Allocate(int64_t bytes, MemoryOwner owner = MemoryOwner::kActivations);
  void Free(void* block, int64_t bytes, MemoryOwner owner = MemoryOwner::kActivations);
  // The owner that the innermost MemoryOwnerScope has set.
  MemoryOwner owner() const { return owner_.load(std::memory_order_relaxed); }

  // A GPU's: takes a region of so many bytes ahead of the requests, which then lie in one piece.
  void Reserve(int64_t bytes);
  // Asked when memory runs out: what could be done about it.
  void set_advice(std::function<std::string()> advice) { advice_ = std::move(advice); }

  AllocatorStats stats() const;
  void ResetPeak();
  // Gives cached blocks back to the system.
  void Trim();

  // The bytes that a request occupies: on the CPU the next size class (8 classes per power of two, at least 64 bytes),
  // on a GPU the next multiple of 512.
  int64_t RoundedSize(int64_t bytes) const;

 private:
  friend class MemoryOwnerScope;

  struct Region {
    char* begin;
    int64_t bytes;
    Arena arena;
  };

  void* TakeBlock(int64_t size);
  void* PlannedBlock(int64_t size);
  void* FromRegions(int64_t size);
  bool AddRegion(int64_t size);
  [[noreturn]] void OutOfMemory(int64_t size) const;

  const Device device_;
  CostRecorder* const plan_;
  const Stream stream_;
  std::atomic<MemoryOwner> owner_ = MemoryOwner::kActivations;
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> cache_;  // size class -> free blocks; not used on a GPU
  std::vector<Region> regions_;                  // a GPU's
  std::function<std::string()> advice_;
  AllocatorStats stats_;
  int64_t planned_bytes_ = 0;  // addresses given out
};

// Tensors allocated while it lives belong to `owner`.
class MemoryOwnerScope {
 public:
  MemoryOwnerScope(Allocator& allocator, MemoryOwner owner)
      : allocator_(allocator), outer_(allocator.owner_.exchange(owner)) {}
  ~MemoryOwnerScope() { allocator_.owner_ = outer_; }
  MemoryOwnerScope(const MemoryOwnerScope&) = delete;
  MemoryOwnerScope& operator=(const MemoryOwnerScope&) = delete;

 private:
  Allocator& allocator_;
  const MemoryOwner outer_;
};

}  // namespace shardit
