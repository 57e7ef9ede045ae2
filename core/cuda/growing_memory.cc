#include "core/cuda/growing_memory.h"

#include <algorithm>

#include "core/base/math.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

constexpr int64_t kFirstBytes = int64_t{8} << 20;

}  // namespace

GrowingMemory::~GrowingMemory() {
  for (void* region : regions_) FreeDeviceMemory(device_, region);
}

void* GrowingMemory::Get(int64_t bytes) {
  if (bytes <= bytes_) return regions_.empty() ? nullptr : regions_.back();
  for (const int64_t size : {std::max({bytes, 2 * bytes_, kFirstBytes}), bytes}) {
    const int64_t rounded = RoundUp(size, kAlignment);
    void* region = AllocateDeviceMemory(device_, rounded);
    if (region == nullptr) continue;
    regions_.push_back(region);
    bytes_ = rounded;
    return region;
  }
  return nullptr;
}

}  // namespace shardit::cuda
