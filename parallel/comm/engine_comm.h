// A communicator whose collectives run on the rank's communication thread.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm/communicator.h"
#include "parallel/comm/engine.h"

namespace shardit {

// The communicator of all ranks of the engine's transport: self if there is only one. Engine and log outlive it and
// every communicator split from it.
std::unique_ptr<Communicator> MakeWorldCommunicator(CommEngine* engine, CollectiveLog* log);

class EngineCommunicator final : public Communicator {
 public:
  EngineCommunicator(CommEngine* engine, std::shared_ptr<Channel> channel, std::string name, CollectiveLog* log);

  // Needs no call of the transport's: the members agree on a channel number by an all-gather. At most
  // Channel::kMaxChannels on a rank, over its lifetime.
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;

 private:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;

  CommEngine* const engine_;
  const std::shared_ptr<Channel> channel_;
};

}  // namespace shardit
