// The communicators of a training step: one for every stream of collectives whose order of issue is its own, so that
// none waits for another's. References; the owner outlives every user.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/mesh.h"

namespace shardit {

class StepComms {
 public:
  // Collective: splits what the mesh does not have. The mesh outlives it.
  explicit StepComms(Mesh& mesh);

  Communicator& gradients() const { return mesh_.dp(); }               // data axis: reductions under backward
  Communicator& parameters() const { return *parameters_; }            // data axis: gathers under forward
  Communicator& tensor() const { return mesh_.tp(); }                  // tensor axis: seams
  Communicator& token_gradients() const { return *token_gradients_; }  // tensor axis: partial gradients
  Communicator& pipeline() const { return mesh_.pp(); }
  Communicator& control() const { return *control_; }  // world: flags, losses, norm

  // Ring bytes that this rank has sent so far along an axis. The world's control messages count with data, as a run on
  // the data axis alone has always counted them.
  struct Bytes {
    int64_t dp = 0, tp = 0, pp = 0;
  };
  Bytes BytesSent() const;

 private:
  Mesh& mesh_;
  std::unique_ptr<Communicator> parameters_, token_gradients_, control_;
};

}  // namespace shardit
