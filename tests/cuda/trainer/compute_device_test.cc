// What ranks may take of the memory of their GPUs.
#include "trainer/train/compute_device.h"

#include "core/cuda/device_query.h"
#include "core/tensor/device_memory.h"
#include "gtest/gtest.h"
#include "tests/cuda/wants_gpus.h"
#include "trainer/train/step_comms.h"

namespace shardit {
namespace {

// A rank's part is by who has the same device, not by how many devices a process sees.
TEST(MemoryBudgetTest, IsSharedByTheRanksOfADevice) {
  SKIP_WITHOUT_GPUS(1);
  const MeshShape alone{1, 1, 1};
  const int64_t free_bytes = cuda::MemoryInfo(Device::Cuda(0)).free_bytes;
  int64_t own = 0;
  RunThreadWorld(1, [&](World& world) { own = MemoryBudget(world, Device::Cuda(0), alone); });
  EXPECT_GT(own, 0);
  EXPECT_LT(own, free_bytes);
  RunThreadWorld(2, [&](World& world) {
    EXPECT_EQ(MemoryBudget(world, Device::Cuda(0), alone), own - free_bytes + free_bytes / 2);
  });
  if (cuda::Devices().size() < 2) return;
  RunThreadWorld(2, [&](World& world) {
    const int64_t budget = MemoryBudget(world, Device::Cuda(world.rank()), alone);
    EXPECT_EQ(world.rank() == 0 ? budget : own, own);
  });
}

TEST(MemoryBudgetTest, LeavesRoomForEveryCommunicator) {
  SKIP_WITHOUT_GPUS(2);
  EXPECT_EQ(StepComms::DeviceBytes({1, 1, 1}), 0);
  EXPECT_GE(StepComms::DeviceBytes({1, 2, 1}), int64_t{3} * 220 << 20);             // gradients, parameters, sums
  EXPECT_GT(StepComms::DeviceBytes({2, 1, 1}), StepComms::DeviceBytes({1, 2, 1}));  // lanes
  RunThreadWorld(2, [](World& world) {
    const Device device = Device::Cuda(world.rank());
    EXPECT_EQ(MemoryBudget(world, device, {1, 2, 1}),
              MemoryBudget(world, device, {1, 1, 1}) - StepComms::DeviceBytes({1, 2, 1}));
  });
}

}  // namespace
}  // namespace shardit
