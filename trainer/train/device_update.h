// DeviceUpdate: the optimizer's work of a step where the rank computes on a GPU, as work for the device alone: the
// norm, the sums over the ranks, the decision, the update. Nothing in it waits for the device, so that it can be
// recorded with the rest of a step and replayed; what differs from step to step lies in device memory. A step:
//
//   update.Begin(optimizer.Begin(state, global_batch, policy.Limit()));       // the host; also before a replay
//   update.sums().Zero();  ...forward: update.sums().AddImages(...)...  backward, reduction of gradients   } recorded,
//   update.Enqueue(world);                                                                                  } or not
//   context.Synchronize();                                                    // the step's one wait
//   report = optimizer.End(update.control(), state);
#pragma once

#include <cstdint>

#include "core/tensor/host_buffer.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "trainer/train/loss_sums.h"
#include "trainer/train/train_state.h"
#include "trainer/train/update_control.h"

namespace shardit {

class DeviceUpdate {
 public:
  // `context` computes on a GPU. Both outlive the object; the state's tensors stay where they are. Waits for the
  // device.
  DeviceUpdate(RankContext& context, const TrainState& state);
  // Waits for the device.
  ~DeviceUpdate();
  DeviceUpdate(const DeviceUpdate&) = delete;
  DeviceUpdate& operator=(const DeviceUpdate&) = delete;

  const StepSums& sums() const { return sums_; }

  // What the next Enqueue, or its replay, works with: copied behind what was issued so far. The step before has been
  // waited for.
  void Begin(const UpdateInputs& inputs);

  // Collective over `world`, which takes device memory: from the summed gradients in state.grads() and the losses in
  // sums() to new weights, moments, EMA and bf16 weights on what this rank keeps, or to none of them. The norm is that
  // of Optimizer::Step, to the bit.
  void Enqueue(Communicator& world);

  // Of the last step that the host has waited for.
  const UpdateControl& control() const { return host_.as<HostSide>()->control; }

 private:
  struct HostSide {
    UpdateInputs inputs;
    UpdateControl control;
  };

  CudaContext& cuda() const { return context_.cuda(); }
  void AddSquares();
  void Update();

  RankContext& context_;
  const TrainState& state_;
  const StepSums sums_;
  const HostBuffer host_;          // pinned: one HostSide
  const Tensor inputs_, control_;  // the device's copies, as bytes
  Tensor squares_runs_, update_runs_;
  int64_t squares_blocks_ = 0, update_tiles_ = 0;
};

}  // namespace shardit
