// Device memory that the host cannot touch, its ends, and copies.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

__global__ void WriteKernel(char* data, int index) { data[index] = 1; }
__global__ void ReadKernel(const char* data, int index, char* out) { *out = data[index]; }
__global__ void AddKernel(int* data, int value) { data[threadIdx.x] += value; }

TEST(MemoryDeathTest, HostCannotTouchDeviceMemory) {
  DeviceArray<int> small(std::vector<int>(10, 3)), large(std::vector<int>(1 << 20, 3));
  volatile int* pointer = small.data();
  EXPECT_DEATH(static_cast<void>(pointer[0]), "");
  EXPECT_DEATH(pointer[9] = 1, "");
  pointer = large.data();
  EXPECT_DEATH(static_cast<void>(pointer[1 << 19]), "");
  // Also after kernels have used it.
  Launch(AddKernel, 1, 10, 0, nullptr, small.data(), 1);
  Check(cudaDeviceSynchronize());
  pointer = small.data();
  EXPECT_DEATH(static_cast<void>(pointer[0]), "");
  SetProtection(false);
  EXPECT_EQ(pointer[0], 4);
  SetProtection(true);
  EXPECT_DEATH(static_cast<void>(pointer[0]), "");
}

void WriteAt(size_t bytes, int index, bool free_only) {
  char* data = nullptr;
  Check(cudaMalloc(&data, bytes));
  Launch(WriteKernel, 1, 1, 0, nullptr, data, index);
  if (free_only) {
    cudaFree(data);
  } else {
    cudaDeviceSynchronize();
  }
}

TEST(MemoryDeathTest, WritesOutOfBoundsAreCaught) {
  for (const size_t bytes : {size_t{100}, size_t{5000}, size_t{3000001}}) {
    const int size = static_cast<int>(bytes);
    for (const bool free_only : {false, true}) {
      EXPECT_DEATH(WriteAt(bytes, size, free_only), "written out of bounds, 0 bytes behind the end of device memory");
      EXPECT_DEATH(WriteAt(bytes, -3, free_only), "written out of bounds, 3 bytes before the begin of device memory");
    }
    EXPECT_DEATH(WriteAt(bytes, size + 16, false), "");  // the guard page
  }
}

void ReadAt(size_t bytes, int index) {
  char *data = nullptr, *out = nullptr;
  Check(cudaMalloc(&data, bytes));
  Check(cudaMalloc(&out, 1));
  Launch(ReadKernel, 1, 1, 0, nullptr, data, index, out);
  Check(cudaDeviceSynchronize());
}

void ReadAfterFree() {
  DeviceArray<char> out(1);
  char* data = nullptr;
  Check(cudaMalloc(&data, 100));
  Check(cudaFree(data));
  Launch(ReadKernel, 1, 1, 0, nullptr, data, 0, out.data());
  Check(cudaDeviceSynchronize());
}

TEST(MemoryDeathTest, ReadsOutOfBoundsAndAfterFreeAreCaught) {
  ReadAt(4096, 4095);
  EXPECT_DEATH(ReadAt(4096, 4096), "");
  EXPECT_DEATH(ReadAt(1 << 20, 1 << 20), "");
  EXPECT_DEATH(ReadAfterFree(), "");
}

TEST(MemoryDeathTest, PageableMemoryIsNoArgumentOfKernels) {
  std::vector<int> host(10);
  EXPECT_DEATH(Launch(AddKernel, 1, 10, 0, nullptr, host.data(), 1),
               "AddKernel.*argument 0 is the address of pageable host memory");
}

TEST(Memory, FreshMemoryIsNaN) {
  DeviceArray<uint32_t> device(1000);
  EXPECT_EQ(device.ToHost(), std::vector<uint32_t>(1000, 0xffffffffu));
  uint32_t* pinned = nullptr;
  Check(cudaMallocHost(&pinned, 8 << 20));  // so much that it is not memory used before
  EXPECT_EQ(pinned[(2 << 20) - 1], 0xffffffffu);
  Check(cudaFreeHost(pinned));
}

TEST(Memory, IsFinite) {
  size_t free_before = 0, free_bytes = 0, total = 0;
  Check(cudaMemGetInfo(&free_before, &total));
  void *first = nullptr, *second = nullptr;
  Check(cudaMalloc(&first, 1000));
  Check(cudaMemGetInfo(&free_bytes, &total));
  EXPECT_EQ(free_bytes, free_before - 1000);
  EXPECT_EQ(cudaMalloc(&second, free_bytes + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  Check(cudaFree(first));
  Check(cudaMemGetInfo(&free_bytes, &total));
  EXPECT_EQ(free_bytes, free_before);
  EXPECT_EQ(cudaFree(first), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST(Memory, KnowsPointers) {
  DeviceArray<int> device(10);
  int *pinned = nullptr, pageable = 0;
  Check(cudaHostAlloc(&pinned, 40, cudaHostAllocMapped));
  cudaPointerAttributes attributes;
  Check(cudaPointerGetAttributes(&attributes, device.data() + 3));
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  Check(cudaPointerGetAttributes(&attributes, pinned + 3));
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  Check(cudaPointerGetAttributes(&attributes, &pageable));
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  // Kernels write to mapped memory.
  int* mapped = nullptr;
  Check(cudaHostGetDevicePointer(&mapped, pinned, 0));
  pinned[0] = 5;
  Launch(AddKernel, 1, 1, 0, nullptr, mapped, 2);
  Check(cudaDeviceSynchronize());
  EXPECT_EQ(pinned[0], 7);
  Check(cudaFreeHost(pinned));
}

TEST(Copy, ChecksDirectionAndRange) {
  DeviceArray<int> device(std::vector<int>(10, 1));
  std::vector<int> host(20);
  EXPECT_EQ(cudaMemcpy(host.data(), device.data(), 40, cudaMemcpyHostToDevice), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpy(device.data(), host.data(), 40, cudaMemcpyDeviceToDevice), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpy(host.data(), device.data(), 44, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(device.data(), 0, 44), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), device.data(), 40, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(host[9], 1);
  EXPECT_DEATH(cudaMemcpyAsync(device.data() + 1, device.data(), 16, cudaMemcpyDeviceToDevice), "overlap");
  cudaGetLastError();
}

// Pinned memory is read when the copy runs, pageable memory when it is issued.
TEST(Copy, ReadsPinnedMemoryLate) {
  DeviceArray<int> device(2);
  int *pinned = nullptr, pageable = 1;
  Check(cudaMallocHost(&pinned, sizeof(int)));
  *pinned = 1;
  Check(cudaMemcpyAsync(device.data(), &pageable, sizeof(int), cudaMemcpyHostToDevice, nullptr));
  Check(cudaMemcpyAsync(device.data() + 1, pinned, sizeof(int), cudaMemcpyHostToDevice, nullptr));
  pageable = *pinned = 2;
  EXPECT_EQ(device.ToHost(), (std::vector<int>{1, 2}));
  Check(cudaFreeHost(pinned));
}

TEST(Copy, TwoDimensions) {
  std::vector<char> host(100);
  std::iota(host.begin(), host.end(), static_cast<char>(0));
  DeviceArray<char> device(60);
  Check(cudaMemset(device.data(), 77, 60));
  // Five rows of 7 bytes, 20 apart, to rows 12 apart.
  Check(cudaMemcpy2DAsync(device.data(), 12, host.data(), 20, 7, 5, cudaMemcpyHostToDevice));
  Check(cudaMemset2DAsync(device.data() + 9, 12, 88, 2, 5));
  const std::vector<char> copied = device.ToHost();
  for (int row = 0; row < 5; ++row) {
    for (int i = 0; i < 12; ++i) {
      const int expected = i < 7 ? row * 20 + i : i == 9 || i == 10 ? 88 : 77;
      EXPECT_EQ(copied[static_cast<size_t>(row * 12 + i)], expected);
    }
  }
  EXPECT_EQ(cudaMemcpy2DAsync(device.data(), 5, host.data(), 20, 7, 5, cudaMemcpyHostToDevice),
            cudaErrorInvalidPitchValue);
  cudaGetLastError();
}

}  // namespace
}  // namespace cuda_emulator
