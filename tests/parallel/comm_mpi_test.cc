// Collectives between MPI processes; run under mpirun. MPI's own collectives and the thread backend are the oracles.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "parallel/comm/agree_status.h"
#include "parallel/comm/mpi_check.h"
#include "parallel/comm/world.h"
#include "parallel/mesh.h"
#include "tests/parallel/comm_cases.h"
#include "tests/parallel/comm_mpi_world.h"

namespace shardit {
namespace {

World* g_world = nullptr;

}  // namespace

World& MpiTestWorld() { return *g_world; }

namespace {

Communicator& Comm() { return MpiTestWorld().comm(); }

TEST(CommOnMpi, AllDtypes) { comm_cases::AllDtypes(Comm()); }
TEST(CommOnMpi, SumOrder) { comm_cases::SumOrder(Comm()); }
TEST(CommOnMpi, BFloat16SumOrder) { comm_cases::BFloat16SumOrder(Comm()); }
TEST(CommOnMpi, SendRecv) { comm_cases::SendRecv(Comm()); }
TEST(CommOnMpi, ManyInFlight) { comm_cases::ManyInFlight(Comm()); }
TEST(CommOnMpi, ByteStrings) { comm_cases::ByteStrings(Comm()); }
TEST(CommOnMpi, Splits) { comm_cases::Splits(Comm()); }
TEST(CommOnMpi, Duplicates) { comm_cases::Duplicates(Comm()); }
TEST(CommOnMpi, Counters) { comm_cases::Counters(Comm()); }

TEST(CommOnMpi, AgreesWithMpiAllreduce) {
  int started = 0;
  g_world->RunOnCommThread([&] { MPI_CHECK(MPI_Initialized(&started)); });
  if (started == 0) GTEST_SKIP() << "not under mpirun";
  for (const int64_t count : {1, 1009, 100003}) {
    const auto in = comm_cases::Filled<int64_t>(Comm().rank(), count, comm_cases::WholeInput<int64_t>);
    std::vector<int64_t> ours(count), theirs(count);
    Comm().AllReduce(in.data(), ours.data(), count, ReduceOp::kSum).Wait();
    g_world->RunOnCommThread([&] {
      MPI_CHECK(MPI_Allreduce(in.data(), theirs.data(), static_cast<int>(count), MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD));
    });
    EXPECT_EQ(ours, theirs) << count;
  }
}

TEST(CommOnMpi, SumsEqualThreadsAndThemselvesBitForBit) {
  for (const int64_t count : {17, 2048, 500009}) {
    const std::vector<float> first = comm_cases::RoughAllReduce(Comm(), count);
    for (int repeat = 0; repeat < 3; ++repeat) {
      EXPECT_EQ(comm_cases::FirstDifference(comm_cases::RoughAllReduce(Comm(), count), first), -1);
    }
    RunThreadWorld(Comm().size(), [&](World& threads) {
      EXPECT_EQ(comm_cases::FirstDifference(comm_cases::RoughAllReduce(threads.comm(), count), first), -1) << count;
    });
  }
}

TEST(CommOnMpi, StatusesAndHostsAndMesh) {
  const int last = Comm().size() - 1;
  const absl::Status mine = Comm().rank() == last ? absl::NotFoundError("no x") : absl::OkStatus();
  const absl::Status agreed = AgreeStatus(Comm(), mine);
  EXPECT_EQ(agreed.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(agreed.message().find("no x"), std::string_view::npos);

  EXPECT_EQ(g_world->local_size(), g_world->size());
  EXPECT_EQ(g_world->local_rank(), g_world->rank());
  const absl::StatusOr<Mesh> mesh = Mesh::Create({1, 0, Comm().size() % 2 == 0 ? 2 : 1}, Comm());
  ASSERT_TRUE(mesh.ok()) << mesh.status();
  int32_t one = 1;
  mesh->dp().AllReduce(&one, &one, 1, ReduceOp::kSum).Wait();
  mesh->tp().AllReduce(&one, &one, 1, ReduceOp::kSum).Wait();
  EXPECT_EQ(one, Comm().size());
}

// One line from rank 0, so that a run's log says what the communication thread costs.
void ReportCommThread(double wall_seconds) {
  if (g_world->rank() != 0) return;
  std::printf("communication thread: %.3f s of processor time in %.3f s\n", g_world->CommThreadCpuSeconds(),
              wall_seconds);
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  absl::StatusOr<shardit::World> world = shardit::InitMpiWorld(&argc, &argv);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", std::string(world.status().message()).c_str());
    return 1;
  }
  shardit::g_world = &*world;
  if (world->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  const auto start = std::chrono::steady_clock::now();
  int32_t failed = RUN_ALL_TESTS();
  world->comm().AllReduce(&failed, &failed, 1, shardit::ReduceOp::kMax).Wait();
  shardit::ReportCommThread(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return failed;
}
