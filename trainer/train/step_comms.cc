#include "trainer/train/step_comms.h"

#include <string>
#include <utility>

#include "core/base/log.h"
#include "parallel/comm/device_comm.h"
#include "parallel/comm/nccl_comm.h"

namespace shardit {
namespace {

std::unique_ptr<Communicator> Duplicate(Communicator& comm, const std::string& name) {
  return comm.Split(0, comm.rank(), name);
}

std::unique_ptr<Communicator> OnDevice(Communicator& host, RankContext& context,
                                       const DeviceCommOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<Communicator>> comm = MakeDeviceComm(host, context, options);
  CHECK(comm.ok()) << comm.status().message();
  return *std::move(comm);
}

int64_t Sent(const Communicator& comm) {
  const TrafficCounters counters = comm.counters();
  return counters.TotalData().ring_bytes + counters.TotalControl().ring_bytes;
}

}  // namespace

StepComms::StepComms(Mesh& mesh)
    : parameters_(Duplicate(mesh.dp(), "dp parameters")),
      token_gradients_(Duplicate(mesh.tp(), "tp gradients")),
      control_(Duplicate(mesh.world(), "control")),
      gradients_(&mesh.dp()),
      tensor_(&mesh.tp()),
      pipeline_(&mesh.pp()),
      sums_(control_.get()) {}

StepComms::StepComms(Mesh& mesh, RankContext& context) : StepComms(mesh) {
  if (!context.on_cuda()) return;
  const bool own_devices = mesh.world().size() > 1 && RanksOnDevice(mesh.world(), context.device()) == 1;
  if (const absl::Status missing = cuda::NcclMissing(); own_devices && mesh.world().rank() == 0 && !missing.ok()) {
    LOG_WARN("no NCCL: messages between GPUs pass through the hosts, and steps are not recorded in a graph; {}",
             std::string(missing.message()));
  }
  owned_gradients_ = OnDevice(mesh.dp(), context);
  owned_tensor_ = OnDevice(mesh.tp(), context);
  owned_pipeline_ = OnDevice(mesh.pp(), context, {.messages = true});
  owned_sums_ = OnDevice(mesh.world(), context);
  parameters_ = OnDevice(*parameters_, context);
  token_gradients_ = OnDevice(*token_gradients_, context);
  gradients_ = owned_gradients_.get();
  tensor_ = owned_tensor_.get();
  pipeline_ = owned_pipeline_.get();
  sums_ = owned_sums_.get();
}

int64_t StepComms::DeviceBytes(const MeshShape& shape) {
  return 2 * DeviceCommBytes(shape.dp, /*messages=*/false) + 2 * DeviceCommBytes(shape.tp, /*messages=*/false) +
         DeviceCommBytes(shape.pp, /*messages=*/true) + DeviceCommBytes(shape.pp * shape.dp * shape.tp, false);
}

std::vector<Communicator*> StepComms::all() const {
  return {gradients_, parameters_.get(), tensor_, token_gradients_.get(), pipeline_, sums_};
}

StepComms::Bytes StepComms::BytesSent() const {
  const int64_t sums = sums_ == control_.get() ? 0 : Sent(*sums_);
  return {.dp = Sent(gradients()) + Sent(parameters()) + Sent(control()) + sums,
          .tp = Sent(tensor()) + Sent(token_gradients()),
          .pp = Sent(pipeline())};
}

}  // namespace shardit
