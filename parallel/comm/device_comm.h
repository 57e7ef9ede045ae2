// Communicators between the GPUs of an axis. Their buffers are device memory, and a collective takes its place in the
// order of the rank's compute stream: it reads what was issued before it, and Work::Wait lets later work of the compute
// stream wait for it (parallel/comm/work.h). Code written for host communicators is right on these as it stands.
//
//   self     one rank: copies on the compute stream where in and out differ.
//   NCCL     every rank has a device of its own (parallel/comm/nccl_comm.h). Collectives run beside the compute stream
//            and can be recorded in a graph; every Work must then be waited for before the recording ends, and the
//            graph destroyed before the communicator, which would wait for it for ever.
//   staged   ranks share a device, or there is no NCCL: over pinned host memory and the host's communicator
//            (parallel/comm/staged_comm.h). Issuing waits for the device, so it cannot be recorded: a CHECK says so.
//
// Time. A rank's host does not see when a device's kernels run: works of NCCL have no start and end, its timeline shows
// neither their spans nor waits for them, and exposed communication reads as 0. A profiler shows them. The log has the
// time of issue, and as end the time when somebody asked (Communicator::Health) and found it done.
//
// Flags, statuses and sizes stay on the host's communicators.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct DeviceCommOptions {
  enum class Backend { kChoose, kNccl, kStaged };
  // kChoose takes NCCL where it can run, on all ranks or none. The others are for tests.
  Backend backend = Backend::kChoose;
  // Send and Recv will be used: pipeline boundaries (see nccl_comm.h for what may be sent where).
  bool messages = false;
  // For ranks to find each other. Long: nodes of a large job start minutes apart.
  double start_seconds = 600.0;
};

// The communicator of the same ranks, in the same order and of the same name, whose buffers lie on context's device.
// Collective over `host`, whose axis it names and which it only uses here; blocking. The same answer on every rank:
// FailedPrecondition or DeadlineExceeded where NCCL was chosen and does not start. `context` is on CUDA (CHECK) and
// outlives it; so does what `host` was split from.
absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceComm(Communicator& host, RankContext& context,
                                                             const DeviceCommOptions& options = {});

// How many of the ranks, this one among them, have its device. Collective over `host`; `device` is on CUDA.
int RanksOnDevice(Communicator& host, Device device);

// About what NCCL takes of each rank's device for MakeDeviceComm's communicator, beside the rank's allocator.
int64_t DeviceCommBytes(int ranks, bool messages);

}  // namespace shardit
