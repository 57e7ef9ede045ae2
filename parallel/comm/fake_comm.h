// FakeCommunicator: one rank of an axis or world of any size, alone in its process, for planning layouts that the
// machine does not have. It counts every collective exactly as the others do (the counters are the base class's), and
// completes it when a FakeNetwork says.
//
// Memory of a planning allocator is not touched. In other memory (flags, losses, sizes) a collective leaves, at once,
// what it would if every rank had given what this one gives: sums are multiplied, gathered slices repeated. What is
// received is zero.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace shardit {

class FakeCommunicator;

// When the messages of a fake world arrive, in seconds of whatever clock its owner plans with. Called on the thread of
// the rank.
class FakeNetwork {
 public:
  virtual ~FakeNetwork() = default;
  // Sees every collective as it is issued; returns when it arrives.
  virtual double Issue(const FakeCommunicator& axis, const CollectiveSpec& spec) = 0;
  // The rank waits for a collective of `axis`.
  virtual void WaitUntil(const FakeCommunicator& axis, double time) = 0;
};

class FakeCommunicator : public Communicator {
 public:
  // `log` and `network` outlive the communicator and every Work of it. Without a network, everything is done at once.
  // With one, nothing is seen to be done before somebody waits for it: buffers then live as long as they ever may.
  FakeCommunicator(int rank, int size, std::string name, CollectiveLog* log, FakeNetwork* network = nullptr);

  // An axis that this rank also belongs to, with the same log and network.
  std::unique_ptr<FakeCommunicator> Axis(int rank, int size, std::string name) const;

  // Nobody is there to say who gave which color: only a duplicate of the whole, in the order of ranks, can be made.
  // Else a CHECK.
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;

 protected:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;

 private:
  FakeNetwork* const network_;
};

}  // namespace shardit
