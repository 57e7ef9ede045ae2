#include "parallel/comm/device_comm.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/tensor/device_memory.h"
#include "parallel/comm/device_facts.h"
#include "parallel/comm/nccl_comm.h"
#include "parallel/comm/staged_comm.h"

namespace shardit {
namespace {

// One rank: what it gives is what it gets.
class DeviceSelfCommunicator final : public Communicator {
 public:
  DeviceSelfCommunicator(std::string name, CollectiveLog* log, Stream stream)
      : Communicator(0, 1, std::move(name), log), stream_(stream) {}

  Device device() const override { return stream_.device; }
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override {
    return std::make_unique<DeviceSelfCommunicator>(std::move(name), log(), stream_);
  }

 private:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override {
    work->MarkStart();
    if (spec.in != spec.out) cuda::CopyAsync(spec.out, spec.in, spec.bytes(), stream_);
    work->SetDeviceWait([stream = stream_] { cuda::Synchronize(stream); }, /*stream_ordered=*/true);
    work->MarkDone();
  }

  const Stream stream_;
};

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

// Every rank has a device of its own, and NCCL. Collective.
bool NcclFits(Communicator& host, Device device) {
  const std::string mine =
      absl::StrCat(cuda::NcclMissing().ok() ? "nccl " : "none ", HostName(), " ", cuda::DeviceBusId(device));
  std::vector<std::string> all = host.AllGatherBytes(mine, {"devices", /*control=*/true});
  std::sort(all.begin(), all.end());
  const bool distinct = std::adjacent_find(all.begin(), all.end()) == all.end();
  return distinct && std::all_of(all.begin(), all.end(), [](const std::string& s) { return s.starts_with("nccl "); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceComm(Communicator& host, RankContext& context,
                                                             const DeviceCommOptions& options) {
  CHECK(context.on_cuda() && host.device().is_cpu())
      << "[comm " << host.name() << "] for a rank on " << context.device();
  using Backend = DeviceCommOptions::Backend;
  if (host.size() == 1) {
    return std::make_unique<DeviceSelfCommunicator>(host.name(), host.log(), context.cuda().stream);
  }
  const bool nccl =
      options.backend == Backend::kChoose ? NcclFits(host, context.device()) : options.backend == Backend::kNccl;
  if (nccl) return cuda::MakeNcclComm(host, context, options);
  return std::make_unique<StagedCommunicator>(host.Split(0, host.rank(), absl::StrCat(host.name(), " staged")),
                                              host.name(), context);
}

}  // namespace shardit
