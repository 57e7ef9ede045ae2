// Where a rank computes: the choice of train.device, and the RankContext on it.
#pragma once

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/world.h"
#include "parallel/mesh.h"
#include "trainer/run_config/options.h"
#include "trainer/train/cpu_share.h"

namespace shardit {

// AUTO takes a GPU where this program has CUDA code and the host a GPU; a CPU otherwise. The ranks of a host take its
// GPUs in turn; more ranks than GPUs share them. InvalidArgument (exit code 64) where a GPU is asked for and none is
// there, or the precision needs one. Agreed over the world: ranks never mix devices.
absl::StatusOr<Device> ChooseDevice(World& world, DeviceChoice choice, Precision precision);

// What the allocator of a rank may take of its GPU: the rank's part of what is free there, equal for all ranks that
// share the device, less what kernels' scratch and communication need in a layout. Collective over the world, where all
// ranks have GPUs; before the communicators of the step are made.
int64_t MemoryBudget(World& world, Device device, const MeshShape& shape);

// Of a GPU: bf16 operations a second at most, what MFU is quoted over whatever the run's precision; not a number where
// no figure is known.
double PeakFlops(Device device);

// "cuda:0 (NVIDIA H100 80GB HBM3)", "cpu (16 threads)".
std::string DescribeDevice(Device device, const CpuShare& share);

struct RankDevice {
  Device device;              // that ChooseDevice gave
  int64_t reserve_bytes = 0;  // of a GPU, taken at once; 0: as it is asked for
  int64_t budget_bytes = 0;   // of a GPU: MemoryBudget
  Precision precision = Precision::kFp32;
  bool deterministic = false;
  // Matrix products may be timed to choose among algorithms: to be off where ranks must compute the same bits from the
  // same operands (the tensor axis).
  bool tune = true;
};
RankContext MakeRankContext(const RankDevice& device, const CpuShare& share);

}  // namespace shardit
