// Stands in for parallel/comm/*.cu in a build without CUDA.
#include "core/base/check.h"
#include "parallel/comm/device_facts.h"
#include "parallel/comm/nccl_comm.h"

namespace shardit::cuda {
namespace {

[[noreturn]] void Unavailable() {
  CHECK(false) << "this build has no CUDA code: no buffer can be on a GPU";
  __builtin_unreachable();
}

}  // namespace

std::string DeviceBusId(Device device) { Unavailable(); }
bool IsRecorded(Stream stream) { Unavailable(); }
absl::Status NcclMissing() { return absl::UnimplementedError("this build has no CUDA code"); }
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclComm(Communicator& host, RankContext& context,
                                                           const DeviceCommOptions& options) {
  Unavailable();
}

}  // namespace shardit::cuda
