// cp.async: copies that happen at once or as late as they may.
#include <cstring>

#include "cuda_emulator.h"
#include "tests/cuda_emulator/block.h"

namespace cuda_emulator {
namespace {

void Perform(const AsyncCopies::Copy& copy) {
  if (copy.valid) {
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  } else {
    std::memset(copy.to, 0, static_cast<size_t>(copy.bytes));
  }
}

// Performs the copies of all groups before `end`.
void PerformBefore(AsyncCopies& copies, int end) {
  size_t done = 0;
  while (done < copies.pending.size() && copies.pending[done].group < end) Perform(copies.pending[done++]);
  copies.pending.erase(copies.pending.begin(), copies.pending.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace

void CpAsync(void* shared, const void* global, int bytes, bool valid) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(shared) | (valid ? reinterpret_cast<uintptr_t>(global) : 0);
  if (bytes != 4 && bytes != 8 && bytes != 16) FatalInKernel("cp.async of " + std::to_string(bytes) + " bytes");
  if (addresses % static_cast<uintptr_t>(bytes) != 0) {
    FatalInKernel("cp.async of " + std::to_string(bytes) + " bytes between addresses that are not aligned to that");
  }
  AsyncCopies& copies = CurrentAsyncCopies();
  const AsyncCopies::Copy copy{shared, global, bytes, valid, copies.group};
  if (RandomInKernel() % 4 == 0) {
    Perform(copy);
  } else {
    copies.pending.push_back(copy);
  }
}

void CpAsyncCommit() { ++CurrentAsyncCopies().group; }

void CpAsyncWaitGroup(int pending) {
  AsyncCopies& copies = CurrentAsyncCopies();
  PerformBefore(copies, copies.group - pending);
}

void CpAsyncWaitAll() {
  AsyncCopies& copies = CurrentAsyncCopies();
  PerformBefore(copies, copies.group + 1);
}

}  // namespace cuda_emulator
