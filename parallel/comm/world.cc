#include "parallel/comm/world.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "parallel/comm/engine.h"
#include "parallel/comm/engine_comm.h"
#include "parallel/comm/mpi_transport.h"
#include "parallel/comm/self_comm.h"
#include "parallel/comm/thread_transport.h"

namespace shardit {
namespace {

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

bool StartedByLauncher() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

}  // namespace

// Destroyed from the last member up: the communicator uses the engine, and both write to the log.
struct World::Impl {
  explicit Impl(std::unique_ptr<CommEngine> engine_or_null) : engine(std::move(engine_or_null)), host_name(HostName()) {
    comm = engine != nullptr ? MakeWorldCommunicator(engine.get(), &log)
                             : std::make_unique<SelfCommunicator>("world", &log);
  }

  // Collective over the world.
  void FindLocalRanks() {
    const std::vector<std::string> hosts = comm->AllGatherBytes(host_name, {"host names", /*control=*/true});
    local_size = 0;
    for (int r = 0; r < comm->size(); ++r) {
      if (r == comm->rank()) local_rank = local_size;
      if (hosts[r] == host_name) ++local_size;
    }
  }

  CollectiveLog log;
  std::unique_ptr<CommEngine> engine;
  std::unique_ptr<Communicator> comm;
  std::string host_name;
  int local_rank = 0;
  int local_size = 1;
};

World::World(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

Communicator& World::comm() const { return *impl_->comm; }
const std::string& World::host_name() const { return impl_->host_name; }
int World::local_rank() const { return impl_->local_rank; }
int World::local_size() const { return impl_->local_size; }
const CollectiveLog& World::log() const { return impl_->log; }

double World::CommThreadCpuSeconds() const { return impl_->engine != nullptr ? impl_->engine->CpuSeconds() : 0.0; }

void World::RunOnCommThread(absl::FunctionRef<void()> body) {
  if (impl_->engine == nullptr) return body();
  impl_->engine->Run(body);
}

void World::Abort(int exit_code) {
  std::fflush(nullptr);
  if (impl_->engine != nullptr) impl_->engine->Abort(exit_code);
  std::_Exit(exit_code);
}

World SelfWorld() { return World(std::make_unique<World::Impl>(nullptr)); }

absl::StatusOr<World> InitMpiWorld(int* argc, char*** argv) {
  if (!StartedByLauncher()) return SelfWorld();
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", /*overwrite=*/0);
  setenv("OMPI_MCA_btl_base_warn_component_unused", "0", /*overwrite=*/0);
  std::unique_ptr<CommEngine> engine;
  ASSIGN_OR_RETURN(engine, CommEngine::Start([&](std::function<void()>) { return MakeMpiTransport(argc, argv); }));
  auto impl = std::make_unique<World::Impl>(std::move(engine));
  impl->FindLocalRanks();
  return World(std::move(impl));
}

void RunThreadWorld(int size, absl::FunctionRef<void(World& world)> body) {
  CHECK_GE(size, 1);
  ThreadFabric fabric(size);
  std::vector<World> worlds;
  for (int r = 0; r < size; ++r) {
    auto engine = CommEngine::Start([&](std::function<void()> wake) { return fabric.Connect(r, std::move(wake)); });
    CHECK(engine.ok());
    worlds.push_back(World(std::make_unique<World::Impl>(*std::move(engine))));
  }
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      SetThreadIdentity(absl::StrCat("rank ", r));
      worlds[r].impl_->FindLocalRanks();
      body(worlds[r]);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace shardit
