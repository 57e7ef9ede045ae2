// mma, ldmatrix and cp.async.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda_bf16.h"
#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

// Every element has its own value, exact in bf16.
float ElementOfA(int row, int column) { return static_cast<float>(row * 16 + column - 100); }
float ElementOfB(int row, int column) { return static_cast<float>((row * 8 + column) % 61 - 30); }
float ElementOfC(int row, int column) { return static_cast<float>(1000 * row + column); }

uint32_t Pair(float low, float high) { return Bits<uint32_t>(__floats2bfloat162_rn(low, high)); }

// Writes down the fragments by the tables of the PTX ISA, element by element.
__global__ void MmaKernel(float* out) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, in_group = lane % 4;
  uint32_t a[4], b[2];
  float c[4], d[4];
  for (int i = 0; i < 8; i += 2) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] = Pair(ElementOfA(row, column), ElementOfA(row, column + 1));
  }
  for (int i = 0; i < 4; i += 2) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] = Pair(ElementOfB(row, group), ElementOfB(row + 1, group));
  }
  for (int i = 0; i < 4; ++i) c[i] = ElementOfC(i < 2 ? group : group + 8, in_group * 2 + (i & 1));
  MmaM16N8K16Bf16(d, a, b, c);
  for (int i = 0; i < 4; ++i) out[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
}

TEST(Mma, MultipliesBFloat16) {
  DeviceArray<float> out(128);
  Launch(MmaKernel, 1, 32, 0, nullptr, out.data());
  const std::vector<float> host = out.ToHost();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = ElementOfC(row, column);
      for (int k = 0; k < 16; ++k) sum += ElementOfA(row, k) * ElementOfB(k, column);
      EXPECT_EQ(host[static_cast<size_t>(row * 8 + column)], sum) << row << " " << column;
    }
  }
}

__global__ void MmaTf32Kernel(float* out) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, in_group = lane % 4;
  uint32_t a[4], b[2];
  float d[4] = {};
  for (int i = 0; i < 4; ++i) {  // the lowest bits must not matter
    a[i] = __float_as_uint(ElementOfA(i % 2 == 0 ? group : group + 8, in_group + (i >= 2 ? 4 : 0))) | 1;
  }
  for (int i = 0; i < 2; ++i) b[i] = __float_as_uint(ElementOfB(in_group + 4 * i, group));
  MmaM16N8K8Tf32(d, a, b, d);
  for (int i = 0; i < 4; ++i) out[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
}

TEST(Mma, MultipliesTf32) {
  DeviceArray<float> out(128);
  Launch(MmaTf32Kernel, 1, 32, 0, nullptr, out.data());
  const std::vector<float> host = out.ToHost();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = 0;
      for (int k = 0; k < 8; ++k) sum += ElementOfA(row, k) * ElementOfB(k, column);
      EXPECT_EQ(host[static_cast<size_t>(row * 8 + column)], sum) << row << " " << column;
    }
  }
}

// Element (row, column) of matrix m is 100 m + 8 row + column; rows lie 48 bytes apart.
constexpr int kRowElements = 24;

template <int kMatrices, bool kTransposed>
__global__ void LdMatrixKernel(uint32_t* out) {
  uint16_t* shared = static_cast<uint16_t*>(DynamicShared());
  for (int i = static_cast<int>(threadIdx.x); i < kMatrices * 64; i += 32) {
    shared[i / 8 * kRowElements + i % 8] = static_cast<uint16_t>(i / 64 * 100 + i % 64);
  }
  __syncwarp();
  const unsigned lane = threadIdx.x;
  const uint16_t* row = lane < 8 * kMatrices ? shared + lane * kRowElements : nullptr;
  uint32_t r[4] = {};
  if constexpr (kMatrices == 1 && !kTransposed) LdMatrixX1(r, row);
  if constexpr (kMatrices == 2 && !kTransposed) LdMatrixX2(r, row);
  if constexpr (kMatrices == 4 && !kTransposed) LdMatrixX4(r, row);
  if constexpr (kMatrices == 1 && kTransposed) LdMatrixX1Trans(r, row);
  if constexpr (kMatrices == 2 && kTransposed) LdMatrixX2Trans(r, row);
  if constexpr (kMatrices == 4 && kTransposed) LdMatrixX4Trans(r, row);
  for (int j = 0; j < 4; ++j) out[lane * 4 + static_cast<unsigned>(j)] = r[j];
}

template <int kMatrices, bool kTransposed>
void TestLdMatrix() {
  DeviceArray<uint32_t> out(128);
  Launch(LdMatrixKernel<kMatrices, kTransposed>, 1, 32, 4096, nullptr, out.data());
  const std::vector<uint32_t> host = out.ToHost();
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < 4; ++j) {
      // The fragment of an 8 x 8 matrix: lane l holds (l / 4, 2 (l % 4)) and the element to its right; transposed, of
      // the transposed matrix.
      uint32_t expected = 0;
      for (int i = 0; i < 2 && j < kMatrices; ++i) {
        const int row = lane / 4, column = lane % 4 * 2 + i;
        const int value = 100 * j + (kTransposed ? 8 * column + row : 8 * row + column);
        expected |= static_cast<uint32_t>(value) << (16 * i);
      }
      EXPECT_EQ(host[static_cast<size_t>(lane * 4 + j)], expected) << lane << " " << j;
    }
  }
}

TEST(LdMatrix, GivesEachLaneItsElements) {
  TestLdMatrix<1, false>();
  TestLdMatrix<2, false>();
  TestLdMatrix<4, false>();
  TestLdMatrix<1, true>();
  TestLdMatrix<2, true>();
  TestLdMatrix<4, true>();
}

__global__ void UnalignedLdMatrixKernel(int*) {
  uint32_t r[4];
  LdMatrixX4(r, static_cast<char*>(DynamicShared()) + 16 * threadIdx.x + 8);
}
__global__ void PartialMmaKernel(int*) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x != 3) MmaM16N8K16Bf16(d, a, b, d);
}

TEST(MatrixDeathTest, MisuseEndsTheProgram) {
  EXPECT_DEATH(
      {
        Launch(UnalignedLdMatrixKernel, 1, 32, 1024, nullptr, nullptr);
        cudaDeviceSynchronize();
      },
      "ldmatrix: the row of lane 0 is not aligned");
  EXPECT_DEATH(
      {
        Launch(PartialMmaKernel, 1, 32, 0, nullptr, nullptr);
        cudaDeviceSynchronize();
      },
      "mma without the whole warp");
}

// Reads, in stage s, what stage s - 2 asked for. kPending: groups left under way; 1 is right.
template <int kPending, bool kSynchronise>
__global__ void StagedKernel(const int4* in, int4* out, int stages) {
  int4* shared = static_cast<int4*>(DynamicShared());
  const auto load = [&](int stage) {
    if (stage < stages) {
      CpAsync16(shared + stage % 2 * 32 + threadIdx.x, in + stage * 32 + threadIdx.x, threadIdx.x != 5);
    }
    CpAsyncCommit();
  };
  load(0);
  for (int stage = 0; stage < stages; ++stage) {
    load(stage + 1);
    CpAsyncWaitGroup(kPending);
    __syncthreads();
    out[stage * 32 + static_cast<int>(threadIdx.x)] = shared[stage % 2 * 32 + 31 - threadIdx.x];
    if (kSynchronise) __syncthreads();
  }
}

template <int kPending, bool kSynchronise>
bool StagedIsRight() {
  constexpr int kStages = 8;
  std::vector<int4> numbers(kStages * 32);
  for (int i = 0; i < kStages * 32; ++i) numbers[static_cast<size_t>(i)] = make_int4(i, i + 1, i + 2, i + 3);
  DeviceArray<int4> in(numbers), out(numbers.size());
  Launch(StagedKernel<kPending, kSynchronise>, 1, 32, 2 * 32 * 16, nullptr, in.data(), out.data(), kStages);
  const std::vector<int4> host = out.ToHost();
  for (int i = 0; i < kStages * 32; ++i) {
    const int from = i / 32 * 32 + 31 - i % 32;
    const int expected = from % 32 == 5 ? 0 : from;  // not valid: zeros
    if (host[static_cast<size_t>(i)].x != expected) return false;
  }
  return true;
}

TEST(CpAsync, ShowsMissingWaitsAndBarriers) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SeedScope scope(seed);
    EXPECT_TRUE((StagedIsRight<1, true>()));
    EXPECT_TRUE((StagedIsRight<0, true>()));
    EXPECT_FALSE((StagedIsRight<2, true>()));   // reads before the copy has happened
    EXPECT_FALSE((StagedIsRight<1, false>()));  // copies over what others still read
  }
}

}  // namespace
}  // namespace cuda_emulator
