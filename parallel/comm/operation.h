// The algorithms behind the collectives, written once over point-to-point messages for every transport. An operation is
// a state machine that the communication thread advances whenever the messages it posted have completed; it never
// waits.
//
//   reduce-scatter   each rank sends every other rank's slice to it, then reduces what it received in rank-tree order
//                    (parallel/comm/reduce.h) on the communication thread; (n-1)/n of the payload sent, as on a ring,
//                    in one hop. Slices go in segments, the next one under way while one is reduced, so that scratch
//                    is bounded and stays in cache.
//   all-reduce       that, each reduced segment being sent to all at once. Up to kSmallBytes: whole vectors are
//                    exchanged and reduced by every rank (up to kDirectRanks, or not a power of two), or recursive
//                    doubling, whose sums form the same tree (powers of two above; not bf16, whose partial sums are
//                    fp32).
//   all-gather       each rank sends its slice to every other.     gather     each rank sends its slice to the root.
//   broadcast        binomial tree from the root.                  barrier    dissemination, ceil(log2 n) rounds.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/scratch_pool.h"

namespace shardit {

inline constexpr int64_t kSmallBytes = 8192;
inline constexpr int kDirectRanks = 8;

// Where an operation posts its messages. Peers are ranks of the communicator. Messages from one rank to another within
// an operation match in the order in which both posted them; zero bytes post nothing.
class Port {
 public:
  virtual void Send(int peer, const void* data, int64_t bytes) = 0;
  virtual void Recv(int peer, void* data, int64_t bytes) = 0;

 protected:
  ~Port() = default;
};

class Operation {
 public:
  virtual ~Operation() = default;
  // Called first to begin, then each time all messages posted so far have completed. Does the work that these allow,
  // posts the next messages, and returns false when the collective is done on this rank (then nothing was posted).
  virtual bool Advance(Port& port) = 0;
};

// size >= 2. The scratch pool outlives the operation.
std::unique_ptr<Operation> MakeOperation(CollectiveSpec spec, int rank, int size, ScratchPool* scratch);

}  // namespace shardit
