// Threads, barriers, warps and shared memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda_bf16.h"
#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

__global__ void IndexKernel(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] += 1000 * block + thread;
}

TEST(Kernel, RunsEveryThreadOnce) {
  const dim3 grid(3, 2, 2), block(5, 3, 4);
  DeviceArray<int> out(std::vector<int>(720, 0));
  Launch(IndexKernel, grid, block, 0, nullptr, out.data());
  const std::vector<int> host = out.ToHost();
  for (int b = 0; b < 12; ++b) {
    for (int t = 0; t < 60; ++t) ASSERT_EQ(host[static_cast<size_t>(b * 60 + t)], 1000 * b + t);
  }
}

// Reverses a block through shared memory.
template <bool kSynchronise>
__global__ void ReverseKernel(int* data) {
  __shared__ int shared[256];
  shared[threadIdx.x] = data[threadIdx.x];
  if (kSynchronise) __syncthreads();
  data[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

template <bool kSynchronise>
bool Reverses() {
  std::vector<int> numbers(256);
  for (int i = 0; i < 256; ++i) numbers[static_cast<size_t>(i)] = i + 1;
  DeviceArray<int> data(numbers);
  Launch(ReverseKernel<kSynchronise>, 1, 256, 0, nullptr, data.data());
  std::reverse(numbers.begin(), numbers.end());
  return data.ToHost() == numbers;
}

TEST(Kernel, BarrierMakesWritesVisible) { EXPECT_TRUE(Reverses<true>()); }
TEST(Kernel, MissingBarrierShows) { EXPECT_FALSE(Reverses<false>()); }

__global__ void SumKernel(const float* in, float* out, int count) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) sum += in[i];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
  __shared__ float sums[32];
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += sums[w];
    *out = sum;
  }
}

TEST(Kernel, SumsOverABlock) {
  DeviceArray<float> in(std::vector<float>(10000, 0.5f)), out(std::vector<float>(1, 0.0f));
  Launch(SumKernel, 1, 1024, 0, nullptr, in.data(), out.data(), 10000);
  EXPECT_EQ(out.ToHost()[0], 5000.0f);
}

}  // namespace
}  // namespace cuda_emulator
