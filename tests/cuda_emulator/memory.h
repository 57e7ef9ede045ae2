// Memory of the emulated devices and pinned memory of the host.
//
// Device memory lies in one reserved range of addresses. Host code that touches it dies of SIGSEGV: pages are
// accessible only between Open and Close, which the scheduler calls around the operations it runs. Each allocation has
// pages of its own: its end, rounded up to 16 bytes, meets an inaccessible page; bytes of those pages that are not the
// allocation's hold a pattern that CheckCanaries and Free look at. Fresh memory is filled with 0xFF: NaN, and absurd as
// a number. Addresses are not used again before the whole range has been.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "cuda_runtime.h"

namespace cuda_emulator {

enum class Place { kPageable, kPinned, kDevice };

class Memory {
 public:
  static Memory& Instance();

  cudaError_t Allocate(size_t bytes, int device, void** pointer);
  // Fatal where bytes around the allocation were written.
  cudaError_t Free(void* pointer);
  void CheckCanaries();
  void Usage(int device, size_t* used, size_t* total);

  cudaError_t AllocatePinned(size_t bytes, void** pointer);
  cudaError_t FreePinned(void* pointer);
  cudaError_t Register(void* pointer, size_t bytes);
  cudaError_t Unregister(void* pointer);

  // Where `pointer` is; for device memory also on which device (where not null).
  Place Find(const void* pointer, int* device = nullptr);
  // False where the range is partly in device memory that is not one allocation's.
  bool IsValidRange(const void* pointer, size_t bytes);

  // Calls nest, over all threads.
  void Open();
  void Close();
  void SetProtection(bool on);
  // While ranks are threads of this process, memory stays open: one of them always runs something. Calls nest.
  void SuspendProtection(bool suspend);

 private:
  struct Allocation {
    char* pages;        // page-aligned
    size_t page_bytes;  // without the guard page
    size_t bytes;
    int device;
  };
  struct Pinned {
    size_t bytes;
    bool registered;
  };

  Memory();
  char* FindAddresses(size_t bytes, size_t unit);
  const Allocation* FindAllocation(const void* pointer) const;
  void CheckCanaries(const char* begin, const Allocation& allocation) const;
  void OpenPages(bool open);
  bool closed() const { return protection_ && suspended_ == 0 && open_count_ == 0; }

  std::mutex mutex_;
  const size_t page_;
  char* region_;
  char* next_;
  std::map<const char*, Allocation> allocations_;  // by their first byte
  std::map<const char*, Pinned> pinned_;
  std::map<int, size_t> used_;  // bytes, by device
  int open_count_ = 0;
  bool used_since_check_ = false;
  int suspended_ = 0;
  bool protection_;
};

}  // namespace cuda_emulator
