// Threads, barriers, warps and shared memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda_bf16.h"
#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

__global__ void IndexKernel(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] += 1000 * block + thread + 1;
}

TEST(Kernel, RunsEveryThreadOnce) {
  const dim3 grid(3, 2, 2), block(5, 3, 4);
  DeviceArray<int> out(std::vector<int>(720, 0));
  Launch(IndexKernel, grid, block, 0, nullptr, out.data());
  const std::vector<int> host = out.ToHost();
  for (int b = 0; b < 12; ++b) {
    for (int t = 0; t < 60; ++t) ASSERT_EQ(host[static_cast<size_t>(b * 60 + t)], 1000 * b + t + 1);
  }
}

__global__ void OrderKernel(int* next, int* order) {
  order[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

std::vector<int> Order(uint64_t seed, unsigned blocks, unsigned threads) {
  SeedScope scope(seed);
  DeviceArray<int> next(std::vector<int>(1, 0)), order(std::vector<int>(256, 0));
  Launch(OrderKernel, blocks, threads, 0, nullptr, next.data(), order.data());
  return order.ToHost();
}

TEST(Kernel, OrderIsDrawnFromTheSeed) {
  for (const auto& [blocks, threads] : {std::pair(1u, 256u), std::pair(256u, 1u)}) {
    const std::vector<int> first = Order(1, blocks, threads);
    std::vector<int> sorted = first;
    std::sort(sorted.begin(), sorted.end());
    for (int i = 0; i < 256; ++i) EXPECT_EQ(sorted[static_cast<size_t>(i)], i);
    EXPECT_NE(first, sorted);
    EXPECT_NE(first, Order(2, blocks, threads));
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

// Writes shared memory again while others may still read what it held.
template <bool kSynchronise>
__global__ void RotateKernel(int* data, int rounds) {
  __shared__ int shared[256];
  int value = data[threadIdx.x];
  for (int round = 0; round < rounds; ++round) {
    shared[threadIdx.x] = value;
    __syncthreads();
    value = shared[(threadIdx.x + 1) % blockDim.x];
    if (kSynchronise) __syncthreads();
  }
  data[threadIdx.x] = value;
}

std::vector<int> Numbers(int count) {
  std::vector<int> numbers(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) numbers[static_cast<size_t>(i)] = i + 1;
  return numbers;
}

template <class... Arguments>
std::vector<int> Run256(void (*kernel)(int*, Arguments...), Arguments... arguments) {
  DeviceArray<int> data(Numbers(256));
  Launch(kernel, 1, 256, 0, nullptr, data.data(), arguments...);
  return data.ToHost();
}

TEST(Kernel, BarriersOrderSharedMemory) {
  std::vector<int> reversed = Numbers(256), rotated = Numbers(256);
  std::reverse(reversed.begin(), reversed.end());
  std::rotate(rotated.begin(), rotated.begin() + 5, rotated.end());
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SeedScope scope(seed);
    EXPECT_EQ(Run256(ReverseKernel<true>), reversed);
    EXPECT_EQ(Run256(RotateKernel<true>, 5), rotated);
    EXPECT_NE(Run256(ReverseKernel<false>), reversed);
    EXPECT_NE(Run256(RotateKernel<false>, 5), rotated);
  }
}

__global__ void HalfBarrierKernel(int*) {
  if (threadIdx.x < 40) __syncthreads();
}
__global__ void TwoBarriersKernel(int*) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void MissingLaneKernel(int*) {
  if (threadIdx.x == 7) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}
__global__ void WrongMaskKernel(int*) { __shfl_sync(0xff, 1, 0); }
__global__ void DifferentFunctionsKernel(int*) {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __any_sync(0xffffffff, 1);
  }
}

__global__ void DifferentMasksKernel(int*) {
  if (threadIdx.x < 8) __shfl_sync(threadIdx.x == 0 ? 0x3 : 0xff, 1, 0);
}

void LaunchAndWait(void (*kernel)(int*), int threads) {
  Launch(kernel, 1, static_cast<unsigned>(threads), 0, nullptr, nullptr);
  cudaDeviceSynchronize();
}

TEST(KernelDeathTest, MisuseOfBarriersEndsTheProgram) {
  EXPECT_DEATH(LaunchAndWait(HalfBarrierKernel, 64),
               "HalfBarrierKernel.*cannot go on(.|\n)*threads 0-39 wait in __syncthreads at "
               ".*kernel_test.cc(.|\n)*threads 40-63 have exited");
  EXPECT_DEATH(LaunchAndWait(TwoBarriersKernel, 64), "meet at different barriers");
  EXPECT_DEATH(LaunchAndWait(MissingLaneKernel, 32), "wait in __syncwarp for mask 0xffffffff");
  EXPECT_DEATH(LaunchAndWait(WrongMaskKernel, 32), "a lane that its mask 0x000000ff does not name");
  EXPECT_DEATH(LaunchAndWait(DifferentFunctionsKernel, 32), "meet in different functions");
  EXPECT_DEATH(LaunchAndWait(DifferentMasksKernel, 32), "threads 0 wait in __shfl_sync for mask 0x00000003");
}

__global__ void ShuffleKernel(int* out, int width) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(0xffffffff, 100 + lane, 3, width);
  out[32 + lane] = __shfl_up_sync(0xffffffff, 100 + lane, 2u, width);
  out[64 + lane] = __shfl_down_sync(0xffffffff, 100 + lane, 5u, width);
  out[96 + lane] = __shfl_xor_sync(0xffffffff, 100 + lane, 6, width);
}

TEST(Warp, ShufflesStayInTheirSegment) {
  for (const int width : {4, 8, 32}) {
    DeviceArray<int> out(std::vector<int>(128, 0));
    Launch(ShuffleKernel, 1, 32, 0, nullptr, out.data(), width);
    const std::vector<int> host = out.ToHost();
    for (int lane = 0; lane < 32; ++lane) {
      const int begin = lane / width * width, in = lane % width;
      const int lane_or = 100 + lane;
      const auto at = [&](int kind) { return host[static_cast<size_t>(32 * kind + lane)]; };
      EXPECT_EQ(at(0), 100 + begin + 3 % width);
      EXPECT_EQ(at(1), in >= 2 ? lane_or - 2 : lane_or);
      EXPECT_EQ(at(2), in + 5 < width ? lane_or + 5 : lane_or);
      // Into an earlier segment it may reach, into a later one not.
      EXPECT_EQ(at(3), (lane ^ 6) < begin + width ? 100 + (lane ^ 6) : lane_or) << width;
    }
  }
}

__global__ void ShuffleTypesKernel(bool* good) {
  const unsigned lane = threadIdx.x;
  const double d = __shfl_xor_sync(0xffffffff, 1.0 / (1 + lane), 1);
  const long long l = __shfl_xor_sync(0xffffffff, (1LL << 40) + lane, 1);
  const __nv_bfloat16 b = __shfl_xor_sync(0xffffffff, __float2bfloat16(static_cast<float>(lane)), 1);
  good[lane] = d == 1.0 / (1 + (lane ^ 1)) && l == (1LL << 40) + (lane ^ 1) &&
               __bfloat162float(b) == static_cast<float>(lane ^ 1);
}

TEST(Warp, ShufflesAllTypes) {
  DeviceArray<bool> good(32);
  Launch(ShuffleTypesKernel, 1, 32, 0, nullptr, good.data());
  std::vector<char> host(32);
  Check(cudaMemcpy(host.data(), good.data(), 32, cudaMemcpyDeviceToHost));
  EXPECT_EQ(std::count(host.begin(), host.end(), 1), 32);
}

__global__ void VoteKernel(unsigned* out) {
  const unsigned lane = threadIdx.x;
  if (lane == 31) return;  // lanes that have exited do not count
  out[lane] = __ballot_sync(0xffffffff, lane % 3 == 0);
  out[32 + lane] = static_cast<unsigned>(__any_sync(0xffffffff, lane == 30) + 2 * __any_sync(0xffffffff, lane == 31) +
                                         4 * __all_sync(0xffffffff, lane < 31) + 8 * __all_sync(0xffffffff, lane < 30));
  if (lane < 8) {  // part of the warp
    out[64 + lane] = __reduce_add_sync(0xff, lane) + 100 * __reduce_max_sync(0xff, lane ^ 5);
    out[72 + lane] = static_cast<unsigned>(__reduce_min_sync(0xff, static_cast<int>(lane) - 4));
  }
}

TEST(Warp, VotesAndReduces) {
  DeviceArray<unsigned> out(std::vector<unsigned>(80, 0));
  Launch(VoteKernel, 1, 32, 0, nullptr, out.data());
  const std::vector<unsigned> host = out.ToHost();
  for (size_t lane = 0; lane < 31; ++lane) {
    EXPECT_EQ(host[lane], 0x49249249u);
    EXPECT_EQ(host[32 + lane], 5u);
  }
  for (size_t lane = 0; lane < 8; ++lane) {
    EXPECT_EQ(host[64 + lane], 28u + 700u);
    EXPECT_EQ(host[72 + lane], static_cast<unsigned>(-4));
  }
}

// 70 threads: the last warp has 6.
__global__ void CountKernel(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const int sum = __shfl_xor_sync(0xffffffff, thread, 1);
  out[thread] = __syncthreads_count(thread % 2) + 100 * __syncthreads_and(thread >= 0) +
                1000 * __syncthreads_or(thread == 69) + 10000 * __syncthreads_or(thread > 69) +
                10000 * __syncthreads_and(thread < 69) + 100000 * sum;
}

TEST(Kernel, CountsAtBarriers) {
  DeviceArray<int> out(std::vector<int>(70, 0));
  Launch(CountKernel, 1, 70, 0, nullptr, out.data());
  const std::vector<int> host = out.ToHost();
  for (int t = 0; t < 70; ++t) EXPECT_EQ(host[static_cast<size_t>(t)], 35 + 100 + 1000 + 100000 * (t ^ 1));
}

// The first warp fills a buffer that the second empties.
__global__ void PassKernel(int* out, int rounds) {
  __shared__ int buffer[32];
  const unsigned lane = threadIdx.x % 32;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) NamedBarrierSync(2, 64);  // empty
      buffer[lane] = round * 100 + static_cast<int>(lane);
      NamedBarrierArrive(1, 64);  // full
    } else {
      NamedBarrierSync(1, 64);
      out[round * 32 + static_cast<int>(31 - lane)] = buffer[31 - lane];
      if (round + 1 < rounds) NamedBarrierArrive(2, 64);
    }
  }
}
__global__ void LeftoverKernel(int*) { NamedBarrierArrive(3, 64); }

TEST(Kernel, NamedBarriersPassDataBetweenWarps) {
  DeviceArray<int> out(std::vector<int>(320, 0));
  Launch(PassKernel, 1, 64, 0, nullptr, out.data(), 10);
  const std::vector<int> host = out.ToHost();
  for (int i = 0; i < 320; ++i) EXPECT_EQ(host[static_cast<size_t>(i)], i / 32 * 100 + i % 32);
  EXPECT_DEATH(LaunchAndWait(LeftoverKernel, 32), "ended with 32 of 64 threads arrived at barrier 3");
}

__global__ void FreshSharedKernel(unsigned* out) {
  __shared__ unsigned fixed[4];
  const unsigned* dynamic = static_cast<unsigned*>(DynamicShared());
  if (threadIdx.x == 0) out[2 * blockIdx.x] = dynamic[25];
  if (threadIdx.x == 0) out[2 * blockIdx.x + 1] = fixed[2];
  __syncthreads();
  fixed[threadIdx.x] = static_cast<unsigned*>(DynamicShared())[threadIdx.x + 22] = 7;
}
__global__ void BeyondSharedKernel(int*) { static_cast<char*>(DynamicShared())[100] = 1; }

TEST(Shared, StartsAsNaN) {
  DeviceArray<unsigned> out(std::vector<unsigned>(6, 0));
  Launch(FreshSharedKernel, 3, 4, 104, nullptr, out.data());
  for (const unsigned value : out.ToHost()) EXPECT_EQ(value, 0xffffffffu);
}

TEST(Shared, EndIsWatched) {
  EXPECT_DEATH(
      {
        Launch(BeyondSharedKernel, 1, 1, 100, nullptr, nullptr);
        cudaDeviceSynchronize();
      },
      "written 0 bytes behind the 100 bytes of dynamic shared memory");
}

__global__ void SizeKernel(int*) {}

cudaError_t Try(dim3 grid, dim3 block, size_t shared_bytes) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  const cudaError_t error = cudaLaunchKernelEx(&config, SizeKernel, nullptr);
  cudaGetLastError();
  return error;
}

TEST(Launch, ChecksItsConfiguration) {
  EXPECT_EQ(Try(1, 1, 0), cudaSuccess);
  EXPECT_EQ(Try(0, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(Try(1, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(Try(dim3(1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(Try(1, 1, 48 << 10), cudaSuccess);
  EXPECT_EQ(Try(1, 1, (48 << 10) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(SizeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10), cudaSuccess);
  EXPECT_EQ(Try(1, 1, 227 << 10), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(SizeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(SizeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 << 10), cudaSuccess);
}

struct Parameters {
  int values[10];
};
__global__ void ParametersKernel(const __grid_constant__ Parameters parameters, int* out) {
  out[threadIdx.x] = parameters.values[threadIdx.x];
}

TEST(Launch, CopiesParametersWhenIssued) {
  DeviceArray<int> out(10);
  Parameters parameters{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  Launch(ParametersKernel, 1, 10, 0, nullptr, parameters, out.data());
  parameters = {};
  EXPECT_EQ(out.ToHost(), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST(Arithmetic, BFloat16RoundsToNearestEven) {
  const auto bits = [](float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); };
  EXPECT_EQ(bits(1.0f), 0x3f80);
  EXPECT_EQ(bits(__uint_as_float(0x3f808000u)), 0x3f80);  // a tie, down to even
  EXPECT_EQ(bits(__uint_as_float(0x3f818000u)), 0x3f82);  // a tie, up to even
  EXPECT_EQ(bits(__uint_as_float(0x3f808001u)), 0x3f81);
  EXPECT_EQ(bits(__uint_as_float(0x7f7fffffu)), 0x7f80);  // infinity
  EXPECT_EQ(bits(__uint_as_float(0x7fc00000u)), 0x7fff);
  const __nv_bfloat162 pair = __floats2bfloat162_rn(1.0f, -2.0f);
  EXPECT_EQ(Bits<unsigned>(pair), 0xc0003f80u);  // the first in the lower half
  EXPECT_EQ(__high2float(pair), -2.0f);
}

TEST(Arithmetic, IntegerFunctions) {
  EXPECT_EQ(__umulhi(0xffffffffu, 0xffffffffu), 0xfffffffeu);
  EXPECT_EQ(__umul64hi(~0ull, ~0ull), ~0ull - 1);
  EXPECT_EQ(__mul64hi(-1, 1), -1);
  EXPECT_EQ(__brev(1u), 0x80000000u);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7531u), 0x77553311u);
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rn(1e20f), INT_MAX);
  EXPECT_EQ(__float2int_rn(NAN), 0);
}

}  // namespace
}  // namespace cuda_emulator
