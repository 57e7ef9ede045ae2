// Checksums of parameter bits, to find a replica that drifted: a flipped bit in memory, a wrong sum in a network card,
// a mistake of ours. Ranks that hold equal parameters must hold equal bits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace shardit {

// Sum modulo 2^64 over i of a hash of (first_position + i, bits of values[i]): independent of the order in which parts
// are added, so that parts may be summed in parallel and in any cut. Distinguishes 0 from -0 and NaNs from each other.
uint64_t ChecksumBits(std::span<const float> values, uint64_t first_position = 0);
// Of all elements of a dense fp32 tensor, where it lies; waits for a GPU.
uint64_t ChecksumBits(RankContext& context, const Tensor& values);

namespace cuda {

// Adds the sum for values[0 .. count) to *sum, both in device memory.
void ChecksumBits(const float* values, int64_t count, unsigned long long* sum, CudaContext& context);

}  // namespace cuda

struct ReplicaPart {
  std::string name;       // of the parameter, or of the flat range
  uint64_t checksum = 0;  // of its bits on this rank
};

// Collective over `replicas`, whose ranks hold the same parts: dp for what is not sharded by ZeRO, tp for parameters
// that are not cut. OK where all bits agree, found by one all-reduce of two integers. Otherwise Internal (exit code
// 70), the same on the ranks of `replicas`: the ranks in the minority by world rank and host (all, if there is no
// majority) and the first parts that differ. Other groups do not hear of it: agree on the status over the world.
//
// `place` names this rank: "rank 3 on node7".
absl::Status CompareReplicas(Communicator& replicas, std::span<const ReplicaPart> parts, const std::string& place);

}  // namespace shardit
