// Messages between MPI processes: nonblocking sends and receives on a duplicate of MPI_COMM_WORLD.
#pragma once

#include "parallel/comm/transport.h"

namespace shardit {

// Calls MPI_Init_thread (MPI_THREAD_SERIALIZED: other code may call MPI too, through CommEngine::Run) with the
// program's arguments, which may be null. The transport's destructor calls MPI_Finalize, on the same thread; it waits
// for the other ranks'. Once in a process. Failure of MPI itself aborts the job; a library that cannot serve threads,
// or has too few tags, is an error status.
absl::StatusOr<std::unique_ptr<Transport>> MakeMpiTransport(int* argc, char*** argv);

}  // namespace shardit
