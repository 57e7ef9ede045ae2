#include <algorithm>

#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "trainer/faults/bit_hash.h"
#include "trainer/faults/replica_checksum.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocksPerMultiprocessor = 8;

// Integer sums do not depend on the order in which they are taken, so atomics give the same bits every time.
__global__ void ChecksumKernel(const float* values, int64_t count, unsigned long long* sum) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  unsigned long long mine = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    mine += HashOfBits(__float_as_uint(values[i]), static_cast<uint64_t>(i));
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, lanes);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

}  // namespace

void ChecksumBits(const float* values, int64_t count, unsigned long long* sum, CudaContext& context) {
  const int64_t blocks =
      std::min(CeilDiv(count, int64_t{kThreads}), kBlocksPerMultiprocessor * context.multiprocessors);
  Launch(ChecksumKernel, static_cast<unsigned>(blocks), kThreads, 0, context.stream, values, count, sum);
}

}  // namespace shardit::cuda
