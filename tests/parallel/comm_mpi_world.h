// The world of the MPI test binary: MPI starts once in a process, so all its tests share one. Every rank runs every
// test.
#pragma once

#include "parallel/comm/world.h"

namespace shardit {

// Owned by the binary's main, in comm_mpi_test.cc.
World& MpiTestWorld();

}  // namespace shardit
