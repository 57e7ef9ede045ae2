// What is known of GPUs, there or not.
#include "core/cuda/device_query.h"

#include <gtest/gtest.h>

#include "core/cuda/peak_flops.h"

namespace shardit {
namespace {

TEST(DeviceQueryTest, SaysWhyThereIsNoDevice) { EXPECT_EQ(cuda::WhyNoDevice().empty(), !cuda::Devices().empty()); }

TEST(DeviceQueryTest, KnowsWhatItWasBuiltWith) {
  const cuda::Versions versions = cuda::CudaVersions();
  EXPECT_EQ(versions.built_with > 0, cuda::Built());
  // A driver too old for the program shows it no device.
  EXPECT_TRUE(cuda::Devices().empty() || versions.driver / 1000 >= versions.built_with / 1000);
}

TEST(DeviceQueryTest, EveryDeviceReachesItself) {
  for (int i = 0; i < static_cast<int>(cuda::Devices().size()); ++i) EXPECT_TRUE(cuda::CanAccessPeer(i, i));
}

TEST(PeakFlopsTest, TellsFormFactorsApart) {
  EXPECT_EQ(cuda::PeakBf16Flops("NVIDIA H100 80GB HBM3"), 989.4e12);
  EXPECT_EQ(cuda::PeakBf16Flops("NVIDIA H200"), 989.4e12);
  EXPECT_EQ(cuda::PeakBf16Flops("NVIDIA H100 PCIe"), 756.5e12);
  EXPECT_EQ(cuda::PeakBf16Flops("NVIDIA A100-SXM4-80GB"), 312e12);
}

TEST(PeakFlopsTest, IsAbsentForOtherDevices) {
  for (const char* name : {"", "NVIDIA", "NVIDIA H100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Emulated CUDA device"}) {
    EXPECT_FALSE(cuda::PeakBf16Flops(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace shardit
