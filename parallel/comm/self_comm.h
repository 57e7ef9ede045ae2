// The communicator of one rank: copies where in and out differ, done on return, no thread.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace shardit {

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator(std::string name, CollectiveLog* log);

  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;

 private:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;
};

}  // namespace shardit
