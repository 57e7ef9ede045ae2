// Random numbers on a GPU are those of the CPU, bit for bit. Skipped, by name, where there is no GPU.
#include <cstdlib>
#include <vector>

#include "core/cuda/device_query.h"
#include "core/cuda/rng_fill.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "tests/cuda/device_buffer.h"

namespace shardit {
namespace {

using RngCudaTest = cuda::CudaTest;

TEST_F(RngCudaTest, FillsEqualTheCpuBitForBit) {
  const RngKey key{.seed = 3, .purpose = RngPurpose::kNoise, .stream = 11};
  for (const uint64_t first : {0u, 1u, 6u}) {
    for (const int64_t count : {int64_t{1}, int64_t{5}, int64_t{1} << 20}) {
      std::vector<float> expected(static_cast<size_t>(count));
      cuda::DeviceVector<float> actual(count);
      FillNormal(key, first, count, expected.data());
      cuda::FillNormal(key, first, count, actual.data(), cuda::TestContext().stream);
      EXPECT_EQ(actual.Download(), expected) << first << " " << count;
      FillUniform(key, first, count, expected.data());
      cuda::FillUniform(key, first, count, actual.data(), cuda::TestContext().stream);
      EXPECT_EQ(actual.Download(), expected) << first << " " << count;
    }
  }
}

TEST(DeviceQueryTest, ABuildWithoutCudaSeesNoDevice) {
  EXPECT_TRUE(cuda::Built() || cuda::Devices().empty());
  for (const cuda::DeviceInfo& device : cuda::Devices()) {
    EXPECT_GT(device.major, 0);
    EXPECT_GT(device.memory_bytes, 0);
  }
  // What CUDA reads when it starts, asked for before.
  EXPECT_EQ(std::getenv("CUDA_MODULE_LOADING") != nullptr, cuda::Built());
  EXPECT_EQ(std::getenv("CUDA_DEVICE_MAX_CONNECTIONS") != nullptr, cuda::Built());
}

}  // namespace
}  // namespace shardit
