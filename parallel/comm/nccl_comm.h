// Collectives of NCCL, which is opened when the first is made (core/cuda/shared_library.h).
//
// Streams. Collectives run on a stream of the communicator's own, at high priority, behind what the compute stream had
// been given when they were issued; they run in the order of issue, one after the other. Every axis therefore has its
// own communicator, as it has on the host.
//
// Slices. Equal slices are NCCL's own reduce-scatter and all-gather. Unequal ones are one group of a reduce, or
// broadcast, for each slice, rooted at its owner: each runs along a ring, so that a rank sends T - s_rank, or T -
// s_next, as RingBytes says.
//
// Sums are in NCCL's order, which a machine and its layout decide: in bf16 rounded at every step of it. With
// CudaContext::deterministic, sums of floating point are in the tree order of parallel/comm/reduce.h instead, bit for
// bit those of the host's communicators: slices are sent to their owners (T - s_rank, as before), who add them up by a
// kernel of ours, and for an all-reduce gathered again. That takes a buffer as large as the payload while it is under
// way, from the rank's allocator. Short all-reduces (kSmallBytes) are one all-gather, and summed by every rank. Minimum
// and maximum may drop NaN.
//
// Messages (Send, Recv) need DeviceCommOptions::messages. A receive holds its stream until its send comes, so each
// direction between neighbours has a pair of ranks, a communicator and a stream to itself; on one of these, messages
// match in the order of issue, whatever their tags. Even tags go to the next rank (the last one's is 0), odd tags to
// the previous: the pipeline's activations and gradients. Anything else is a CHECK. Both sides connect when the
// communicator is made, so that no Send or Recv blocks its host. Kernels of several communicators
// wait beside each other on the device: set CUDA_DEVICE_MAX_CONNECTIONS to 32 before CUDA starts, so that none waits
// behind another's stream.
//
// Failure. A call that fails aborts the job. What fails while a kernel runs, Health() tells the watchdog; it also ends
// WaitOnHost. AbortDevice frees whoever waits for the device.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/device_comm.h"

namespace shardit::cuda {

// Ok where NCCL can be used; else NotFound, FailedPrecondition or Unimplemented saying what is missing.
absl::Status NcclMissing();

// As MakeDeviceComm, on NCCL. Every rank's device must be another's (NCCL's own rule).
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclComm(Communicator& host, RankContext& context,
                                                           const DeviceCommOptions& options);

}  // namespace shardit::cuda
