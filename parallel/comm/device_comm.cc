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

// Which device each rank has: the same text for the same device, however its process numbers it. Collective.
std::vector<std::string> DevicesOf(Communicator& host, Device device) {
  return host.AllGatherBytes(absl::StrCat(HostName(), " ", cuda::DeviceBusId(device)), {"devices", /*control=*/true});
}

// Every rank has a device of its own, and NCCL. Collective.
bool NcclFits(Communicator& host, Device device) {
  int32_t missing = cuda::NcclMissing().ok() ? 0 : 1;
  host.AllReduce(&missing, &missing, 1, ReduceOp::kMax, {"nccl", /*control=*/true}).Wait();
  std::vector<std::string> devices = DevicesOf(host, device);
  std::sort(devices.begin(), devices.end());
  return missing == 0 && std::adjacent_find(devices.begin(), devices.end()) == devices.end();
}

}  // namespace

int RanksOnDevice(Communicator& host, Device device) {
  const std::vector<std::string> devices = DevicesOf(host, device);
  return static_cast<int>(std::count(devices.begin(), devices.end(), devices[static_cast<size_t>(host.rank())]));
}

int64_t DeviceCommBytes(int ranks, bool messages) {
  // NCCL's buffers of a channel, by protocol (buffer sizes in its src/init.cc): simple 4 MiB, LL128 4.7 MiB, LL 0.5
  // MiB. A GPU with NVLink has up to 24 channels, a lane of messages at most 8, and a rank 4 lanes.
  constexpr double kChannelMiB = 9.2;
  constexpr int kChannels = 24, kLaneChannels = 8, kLanes = 4;
  if (ranks == 1) return 0;
  return static_cast<int64_t>(kChannelMiB * (kChannels + (messages ? kLanes * kLaneChannels : 0))) << 20;
}

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
