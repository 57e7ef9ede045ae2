#include "trainer/train/step_comms.h"

namespace shardit {
namespace {

std::unique_ptr<Communicator> Duplicate(Communicator& comm, const std::string& name) {
  return comm.Split(0, comm.rank(), name);
}

int64_t Sent(const Communicator& comm) {
  const TrafficCounters counters = comm.counters();
  return counters.TotalData().ring_bytes + counters.TotalControl().ring_bytes;
}

}  // namespace

StepComms::StepComms(Mesh& mesh)
    : mesh_(mesh),
      parameters_(Duplicate(mesh.dp(), "dp parameters")),
      token_gradients_(Duplicate(mesh.tp(), "tp gradients")),
      control_(Duplicate(mesh.world(), "control")) {}

StepComms::Bytes StepComms::BytesSent() const {
  return {.dp = Sent(gradients()) + Sent(parameters()) + Sent(control()),
          .tp = Sent(tensor()) + Sent(token_gradients()),
          .pp = Sent(pipeline())};
}

}  // namespace shardit
