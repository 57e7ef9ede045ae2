// Where a rank computes: the choice of train.device, and the RankContext on it.
#pragma once

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/world.h"
#include "trainer/run_config/options.h"
#include "trainer/train/cpu_share.h"

namespace shardit {

// AUTO takes a GPU where this program has CUDA code and the host a GPU; a CPU otherwise. The ranks of a host take its
// GPUs in turn; more ranks than GPUs share them. InvalidArgument (exit code 64) where a GPU is asked for and none is
// there, or the precision needs one. Agreed over the world: ranks never mix devices.
absl::StatusOr<Device> ChooseDevice(World& world, DeviceChoice choice, Precision precision);

// "cuda:0 (NVIDIA H100 80GB HBM3)", "cpu (16 threads)".
std::string DescribeDevice(Device device, const CpuShare& share);

// Of one that ChooseDevice gave. `tune`: whether matrix products may be timed to choose among algorithms, which is to
// be off where ranks must compute the same bits from the same operands (the tensor axis).
RankContext MakeRankContext(Device device, const CpuShare& share, Precision precision, bool deterministic, bool tune);

}  // namespace shardit
