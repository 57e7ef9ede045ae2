#include <algorithm>

#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/cuda/rng_fill.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;

// One Philox block of four elements a thread and iteration. `first` need not be a multiple of four.
template <bool kNormal>
__global__ void FillKernel(RngKey key, uint64_t first, int64_t count, float* out) {
  const uint64_t first_block = first / 4, end = first + static_cast<uint64_t>(count);
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t block = first_block + uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; 4 * block < end;
       block += stride) {
    const PhiloxBlock words = key.Block(block);
    for (int lane = 0; lane < 4; ++lane) {
      const uint64_t element = 4 * block + lane;
      if (element < first || element >= end) continue;
      out[element - first] = kNormal ? NormalFromWord(words.word[lane]) : UniformFromWord(words.word[lane]);
    }
  }
}

template <bool kNormal>
void Fill(const RngKey& key, uint64_t first, int64_t count, float* out, Stream stream) {
  if (count == 0) return;
  const int64_t blocks = std::min(CeilDiv(count / 4 + 2, kThreads), kMaxBlocks);
  Launch(FillKernel<kNormal>, static_cast<unsigned>(blocks), kThreads, 0, stream, key, first, count, out);
}

}  // namespace

void FillUniform(const RngKey& key, uint64_t first, int64_t count, float* out, Stream stream) {
  Fill<false>(key, first, count, out, stream);
}

void FillNormal(const RngKey& key, uint64_t first, int64_t count, float* out, Stream stream) {
  Fill<true>(key, first, count, out, stream);
}

}  // namespace shardit::cuda
