// StagedCommunicator: collectives on device memory over a communicator between hosts. What a rank contributes is copied
// to pinned memory, which waits for the compute stream; the host's collective then runs beside the device; Work::Wait
// blocks until that is done and issues the copy of the result. Sums are the host's, bit for bit.
//
// For ranks that share a device (tests, a look at a layout on one GPU) and for machines without NCCL: slow.
#pragma once

#include <memory>

#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"

namespace shardit {

class StagedCommunicator final : public Communicator {
 public:
  // Takes a communicator of its own, so that it shares no order with others. `context` is on CUDA and outlives it.
  StagedCommunicator(std::unique_ptr<Communicator> host, std::string name, RankContext& context);
  ~StagedCommunicator() override;

  Device device() const override { return stream_.device; }
  bool recordable() const override { return false; }
  // A CHECK: split the host's.
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;

 private:
  class Slots;
  struct Staging;

  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;

  const std::unique_ptr<Communicator> host_;
  const Stream stream_;
  const std::shared_ptr<Slots> slots_;
};

}  // namespace shardit
