// FakeCommunicator: one rank of an axis or world of any size, alone in its process. It counts every collective exactly
// as the others do (the counters are the base class's) and completes it at once, for planning layouts that the machine
// does not have.
//
// Memory of a planning allocator is not touched. In other memory (flags, losses, sizes) a collective leaves what it
// would if every rank had given what this one gives: sums are multiplied, gathered slices repeated. What is received is
// zero.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace shardit {

class FakeCommunicator : public Communicator {
 public:
  // Sees every collective when it is issued, on the caller's thread.
  using Hook = std::function<void(const FakeCommunicator& axis, const CollectiveSpec& spec)>;

  // `log` outlives the communicator, and so does what `hook` (may be empty) refers to.
  FakeCommunicator(int rank, int size, std::string name, CollectiveLog* log, Hook hook = {});

  // An axis that this rank also belongs to, with the same log and hook.
  std::unique_ptr<FakeCommunicator> Axis(int rank, int size, std::string name) const;

  // Nobody is there to say who gave which color: only a duplicate of the whole, in the order of ranks, can be made.
  // Else a CHECK.
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;

 protected:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;

 private:
  const Hook hook_;
};

}  // namespace shardit
