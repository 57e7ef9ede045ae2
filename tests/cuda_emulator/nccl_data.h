// What NCCL's collectives compute: from the buffers of all ranks to the buffers of all ranks. Sums are made in the
// order of ranks, in fp32 for bf16, and rounded once; NCCL itself promises no order.
#pragma once

#include <string>
#include <vector>

#include "nccl.h"

namespace cuda_emulator {

enum class NcclKind { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kReduce, kSend, kRecv };

struct NcclCall {
  NcclKind kind = NcclKind::kAllReduce;
  const void* in = nullptr;
  void* out = nullptr;
  size_t count = 0;  // as in NCCL's call
  ncclDataType_t type = ncclFloat32;
  ncclRedOp_t op = ncclSum;
  int peer = -1;  // root, or the other rank
};

size_t SizeOf(ncclDataType_t type);  // 0: unknown
std::string Describe(const NcclCall& call);
// Bytes that the call reads at `in` and writes at `out` on a communicator of `ranks`.
size_t InBytes(const NcclCall& call, int ranks);
size_t OutBytes(const NcclCall& call, int ranks);

// One collective: calls[r] is rank r's; they agree in everything but buffers.
void RunCollective(const std::vector<NcclCall>& calls);

}  // namespace cuda_emulator
