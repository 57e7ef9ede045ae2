// CpuShare: which processors a rank computes on. Ranks of one host that may run on the same processors (no launcher
// bound them apart) split these evenly; ranks that were bound apart keep what they were given. Two ranks on one host so
// never oversubscribe its cores.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/comm/world.h"

namespace shardit {

struct CpuShare {
  int threads = 1;        // compute threads of this rank
  std::vector<int> cpus;  // logical processors to pin to, one per thread; empty: do not pin
};

// Collective over the world. `threads` 0 takes the rank's whole share, at least 1; more than the share is allowed and
// is then not pinned.
CpuShare DivideCpus(World& world, int64_t threads);

// Binds the calling thread, and those it starts later, to the share. Where the system refuses, nothing changes: binding
// is a matter of speed.
void BindToShare(const CpuShare& share);

// Logical processors that the calling thread may run on, ascending; empty where the system does not say.
std::vector<int> AllowedCpus();

// The pure part: this rank's part of `mine` when the ranks with equal masks are `sharers` and this is number `index`.
std::vector<int> PartOfCpus(const std::vector<int>& mine, int index, int sharers);

}  // namespace shardit
