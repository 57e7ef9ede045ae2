// The communicators of a training step: one for every stream of collectives whose order of issue is its own, so that
// none waits for another's. Where ranks compute on GPUs, those that carry what they compute take device memory; control
// stays on the host. References; the owner outlives every user.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/mesh.h"

namespace shardit {

class StepComms {
 public:
  // Collective: splits what the mesh does not have. Ranks compute on CPUs. The mesh outlives it.
  explicit StepComms(Mesh& mesh);
  // The same, for ranks that compute where `context` does; it outlives the object. GPUs that do not find each other
  // fail a CHECK: nobody could go on.
  StepComms(Mesh& mesh, RankContext& context);

  Communicator& gradients() const { return *gradients_; }              // data axis: reductions under backward
  Communicator& parameters() const { return *parameters_; }            // data axis: gathers under forward
  Communicator& tensor() const { return *tensor_; }                    // tensor axis: seams
  Communicator& token_gradients() const { return *token_gradients_; }  // tensor axis: partial gradients
  Communicator& pipeline() const { return *pipeline_; }
  Communicator& sums() const { return *sums_; }        // world: losses and norm of a step
  Communicator& control() const { return *control_; }  // world, host memory: flags, statuses, held-out losses

  // About what they take of a rank's GPU, where each rank has its own.
  static int64_t DeviceBytes(const MeshShape& shape);

  // Those that carry a step, each once.
  std::vector<Communicator*> all() const;

  // Ring bytes that this rank has sent so far along an axis. The world's control messages count with data, as a run on
  // the data axis alone has always counted them.
  struct Bytes {
    int64_t dp = 0, tp = 0, pp = 0;
  };
  Bytes BytesSent() const;

 private:
  std::unique_ptr<Communicator> owned_gradients_, owned_tensor_, owned_pipeline_, owned_sums_;  // on GPUs
  std::unique_ptr<Communicator> parameters_, token_gradients_, control_;
  Communicator* gradients_;
  Communicator* tensor_;
  Communicator* pipeline_;
  Communicator* sums_;
};

}  // namespace shardit
