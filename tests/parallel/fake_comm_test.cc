// The fake communicator counts what the real ones count, and leaves planned memory alone.
#include "parallel/comm/fake_comm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"
#include "parallel/comm/world.h"
#include "parallel/mesh.h"

namespace shardit {
namespace {

// One of everything, with counts that no number of ranks divides.
void CallEverything(Communicator& comm, float* data, float* out) {
  constexpr int64_t kCount = 103;
  const Range own = comm.Slice(kCount);
  comm.AllReduce(data, data, kCount, ReduceOp::kSum, {"gradients"}).Wait();
  comm.AllReduce(data, out, 1, ReduceOp::kMax, {"flag", /*control=*/true}).Wait();
  comm.ReduceScatter(data, out, kCount).Wait();
  comm.AllGather(data + own.begin, data, kCount).Wait();
  comm.Broadcast(data, kCount, comm.size() - 1).Wait();
  comm.Barrier().Wait();
  comm.AllGatherBytes("bytes", {"names", /*control=*/true});
  comm.GatherBytes("more", 0);
  if (comm.size() == 1) return;
  const int next = (comm.rank() + 1) % comm.size(), last = (comm.rank() + comm.size() - 1) % comm.size();
  const Work sent = comm.Send(data, 7, next, 1);
  comm.Recv(out, 7, last, 1).Wait();
  sent.Wait();
}

TEST(FakeComm, CountersEqualTheThreadBackends) {
  for (const int size : {1, 2, 3, 4, 8}) {
    RunThreadWorld(size, [&](World& world) {
      std::vector<float> data(200, 1.0f), out(200);
      CallEverything(world.comm(), data.data(), out.data());

      CollectiveLog log;
      FakeCommunicator fake(world.rank(), size, "world", &log);
      CostRecorder plan;
      Allocator allocator(Device::Cpu(), &plan);
      const Tensor planned = Tensor::Empty(allocator, {2, 200});
      CallEverything(fake, planned.data(), planned.data() + 200);

      const TrafficCounters real = world.comm().counters(), counted = fake.counters();
      for (int kind = 0; kind < kCollectiveKinds; ++kind) {
        Traffic control = real.control[static_cast<size_t>(kind)];
        // The start of a world has exchanged host names: one string all-gather, with its lengths.
        if (static_cast<CollectiveKind>(kind) == CollectiveKind::kAllGather) {
          control.calls -= 2;
          control.payload_bytes = counted.control[static_cast<size_t>(kind)].payload_bytes;
          control.ring_bytes = counted.control[static_cast<size_t>(kind)].ring_bytes;
        }
        EXPECT_EQ(real.data[static_cast<size_t>(kind)], counted.data[static_cast<size_t>(kind)])
            << Name(static_cast<CollectiveKind>(kind)) << " at " << size;
        EXPECT_EQ(control, counted.control[static_cast<size_t>(kind)]) << Name(static_cast<CollectiveKind>(kind));
      }
    });
  }
}

TEST(FakeComm, HostMemoryIsAsIfAllRanksGaveTheSame) {
  CollectiveLog log;
  FakeCommunicator fake(2, 4, "dp", &log);
  double sum = 1.5;
  fake.AllReduce(&sum, &sum, 1, ReduceOp::kSum).Wait();
  EXPECT_EQ(sum, 6.0);
  const int32_t flag = 3;
  int32_t highest = 0;
  fake.AllReduce(&flag, &highest, 1, ReduceOp::kMax).Wait();
  EXPECT_EQ(highest, 3);
  EXPECT_EQ(fake.AllGatherBytes("rank"), std::vector<std::string>(4, "rank"));
  float part[] = {0, 1, 2, 3}, slice = 0;
  fake.ReduceScatter(part, &slice, 4).Wait();
  EXPECT_EQ(slice, 8.0f);
}

// A message takes a second for each byte; one clock.
class SlowNetwork : public FakeNetwork {
 public:
  double Issue(const FakeCommunicator& axis, const CollectiveSpec& spec) override {
    seen.push_back(axis.name() + " " + spec.site.tag + (spec.site.control ? " control " : " ") +
                   std::to_string(spec.bytes()));
    return now + static_cast<double>(spec.bytes());
  }
  void WaitUntil(const FakeCommunicator& axis, double time) override {
    waited.push_back(axis.name());
    now = std::max(now, time);
  }

  double now = 0;
  std::vector<std::string> seen, waited;
};

TEST(FakeComm, NetworkSeesEveryCollectiveAndSaysWhenItArrives) {
  CollectiveLog log;
  SlowNetwork network;
  FakeCommunicator world(5, 12, "world", &log, &network);
  const Mesh mesh = Mesh::Fake({.pp = 2, .dp = 3, .tp = 2}, world);
  EXPECT_EQ(mesh.coords(), (MeshCoords{.pp = 0, .dp = 2, .tp = 1}));
  EXPECT_EQ(mesh.pp().size(), 2);
  EXPECT_EQ(mesh.pp().rank(), 0);
  EXPECT_EQ(mesh.dp().rank(), 2);
  EXPECT_EQ(mesh.tp().rank(), 1);
  float value = 0;
  const Work first = mesh.tp().AllReduce(&value, &value, 1, ReduceOp::kSum, {"tokens"});
  const Work second = mesh.dp().AllReduce(&value, &value, 1, ReduceOp::kSum, {"gradients"});
  EXPECT_FALSE(first.Done());
  first.Wait();
  EXPECT_EQ(network.now, 4.0);
  EXPECT_TRUE(first.Done());
  EXPECT_FALSE(second.Done());
  second.Wait();
  EXPECT_EQ(network.now, 4.0);  // travelled meanwhile
  mesh.world().Split(0, 5, "control")->Barrier({"stop", /*control=*/true}).Wait();
  EXPECT_EQ(network.seen, (std::vector<std::string>{"tp tokens 4", "dp gradients 4", "control stop control 0"}));
  EXPECT_EQ(network.waited, (std::vector<std::string>{"tp", "dp", "control"}));
}

TEST(FakeCommDeathTest, CannotBeSplit) {
  CollectiveLog log;
  FakeCommunicator fake(1, 4, "world", &log);
  EXPECT_DEATH(fake.Split(1, 0, "half"), "only be duplicated");
}

}  // namespace
}  // namespace shardit
