// A World is one rank's membership in the job: it owns the communication thread and, under mpirun, the lifetime of MPI.
// Everything that communicates hangs off comm() and its splits, so that ranks are processes or threads without the rest
// of the program knowing.
#pragma once

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "parallel/comm/collective_log.h"
#include "parallel/comm/communicator.h"

namespace shardit {

class World {
 public:
  World(World&&) noexcept;
  World& operator=(World&&) noexcept;
  // Waits for the rank's own collectives, then, under MPI, for all ranks to finalize. Communicators split from comm()
  // must be gone, and the World itself before main returns.
  ~World();

  int rank() const { return comm().rank(); }
  int size() const { return comm().size(); }
  Communicator& comm() const;

  const std::string& host_name() const;
  // Rank among, and number of, the ranks on this host: for sharing out its cores and devices.
  int local_rank() const;
  int local_size() const;

  // The last collectives of this rank. Readable from any thread, for example a watchdog's.
  const CollectiveLog& log() const;

  // Processor seconds that the communication thread has used; 0 where there is none (one rank without MPI).
  double CommThreadCpuSeconds() const;

  // Runs `body` on the communication thread and waits: for MPI calls of one's own, which no other thread may make.
  void RunOnCommThread(absl::FunctionRef<void()> body);

  // Ends the job on all ranks with this exit code, within seconds, even if ranks hang. From any thread but the
  // communication thread. Thread-ranks: ends the process.
  [[noreturn]] void Abort(int exit_code);

 private:
  struct Impl;
  explicit World(std::unique_ptr<Impl> impl);
  friend World SelfWorld();
  friend absl::StatusOr<World> InitMpiWorld(int* argc, char*** argv);
  friend void RunThreadWorld(int size, absl::FunctionRef<void(World& world)> body);

  std::unique_ptr<Impl> impl_;
};

// One rank, no thread, no MPI.
World SelfWorld();

// The world of the job that started this process: MPI if a launcher did (OMPI_COMM_WORLD_SIZE or PMIX_RANK is set),
// else SelfWorld. Once in a process. `argc` and `argv` may be null. Where the environment says nothing, it tells Open
// MPI not to use cross-memory attach (it needs a ptrace permission that containers lack) and to keep quiet about absent
// interconnects.
absl::StatusOr<World> InitMpiWorld(int* argc, char*** argv);

// Runs body(world) as rank 0 to size - 1 on threads of this process and returns when all have returned.
void RunThreadWorld(int size, absl::FunctionRef<void(World& world)> body);

}  // namespace shardit
