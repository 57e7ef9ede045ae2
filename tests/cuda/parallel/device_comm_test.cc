// The cases of the host's communicators on those of devices: NCCL in its own order of sums and in the host's, and
// staged through the host.
#include "parallel/comm/device_comm.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "core/cuda/graph.h"
#include "core/tensor/accumulate.h"
#include "parallel/comm/replayed_traffic.h"
#include "tests/core/host_copy.h"
#include "tests/cuda/parallel/device_axis.h"
#include "tests/cuda/parallel/host_facing.h"
#include "tests/parallel/comm_cases.h"

namespace shardit {
namespace {

class DeviceComm : public testing::TestWithParam<AxisCase> {
 protected:
  void SetUp() override { SKIP_WITHOUT_GPUS(GetParam().gpus()); }
  static void RunCase(void (*body)(Communicator& comm), bool messages = false) {
    RunThreadWorld(GetParam().ranks, [&](World& world) {
      SCOPED_TRACE(Name(GetParam()) + ", rank " + std::to_string(world.rank()));
      RankContext& context = ContextOf(world.rank(), GetParam().options);
      HostFacing comm(world.comm().Split(0, world.rank(), "axis"), context,
                      {.backend = GetParam().backend, .messages = messages});
      body(comm);
    });
  }
};

std::vector<AxisCase> Cases() {
  std::vector<AxisCase> cases{{.ranks = 1}};
  for (const int ranks : {2, 3, 4}) {
    cases.push_back({.ranks = ranks});
    cases.push_back({.ranks = ranks, .options = {.deterministic = true}});
    cases.push_back({.ranks = ranks, .backend = Backend::kStaged});
  }
  return cases;
}

// Those of which a test says something.
template <class Predicate>
auto CasesThat(Predicate fit) {
  std::vector<AxisCase> cases = Cases();
  std::erase_if(cases, [fit](const AxisCase& axis) { return !fit(axis); });
  return testing::ValuesIn(cases);
}

std::string CaseName(const testing::TestParamInfo<AxisCase>& info) { return Name(info.param); }

INSTANTIATE_TEST_SUITE_P(Axes, DeviceComm, testing::ValuesIn(Cases()), CaseName);

TEST_P(DeviceComm, AllDtypes) { RunCase(comm_cases::AllDtypes); }
TEST_P(DeviceComm, ManyInFlight) { RunCase(comm_cases::ManyInFlight); }
TEST_P(DeviceComm, Splits) { RunCase(comm_cases::Splits); }
TEST_P(DeviceComm, Duplicates) { RunCase(comm_cases::Duplicates); }
TEST_P(DeviceComm, Counters) {
  // Its messages go to the next rank by an even tag.
  RunCase(comm_cases::Counters, /*messages=*/true);
}

// Sums whose value depends on the order: NCCL's own is not the host's, but for two ranks.
using DeviceCommInHostOrder = DeviceComm;
INSTANTIATE_TEST_SUITE_P(Axes, DeviceCommInHostOrder, CasesThat([](const AxisCase& axis) {
                           return axis.backend == Backend::kStaged || axis.options.deterministic || axis.ranks <= 2;
                         }),
                         CaseName);
TEST_P(DeviceCommInHostOrder, SumOrder) {
  RunCase(comm_cases::SumOrder);
  RunCase(comm_cases::BFloat16SumOrder);
}

// Every rank to every other; on NCCL, where messages are between neighbours, of two ranks only.
using DeviceCommOfAnyTwo = DeviceComm;
INSTANTIATE_TEST_SUITE_P(Axes, DeviceCommOfAnyTwo, CasesThat([](const AxisCase& axis) {
                           return axis.backend == Backend::kStaged || axis.ranks <= 2;
                         }),
                         CaseName);
TEST_P(DeviceCommOfAnyTwo, SendRecv) { RunCase(comm_cases::SendRecv, /*messages=*/true); }

// What a pipeline does: activations to the next rank, gradients to the previous, receives long before their sends, and
// the two directions in another order on each side.
using DeviceCommOfNeighbours = DeviceComm;
INSTANTIATE_TEST_SUITE_P(Axes, DeviceCommOfNeighbours, CasesThat([](const AxisCase& axis) { return axis.ranks > 1; }),
                         CaseName);
TEST_P(DeviceCommOfNeighbours, MessagesOfNeighbours) {
  RunCase(
      [](Communicator& comm) {
        constexpr int64_t kCount = 3001;
        constexpr int kMessages = 5;
        const int next = (comm.rank() + 1) % comm.size(), previous = (comm.rank() + comm.size() - 1) % comm.size();
        const auto stamp = [](int from, int direction, int k) { return from * 100 + direction * 10 + k; };
        std::vector<std::vector<int32_t>> received(2 * kMessages, std::vector<int32_t>(kCount, -1));
        std::vector<std::vector<int32_t>> sent;
        sent.reserve(2 * kMessages);
        std::vector<Work> receives, sends;
        const auto receive = [&](int direction) {
          for (int k = 0; k < kMessages; ++k) {
            receives.push_back(comm.Recv(received[static_cast<size_t>(direction * kMessages + k)].data(), kCount,
                                         direction == 0 ? previous : next, 2 * k + direction));
          }
        };
        const auto send = [&](int direction) {
          for (int k = 0; k < kMessages; ++k) {
            sent.emplace_back(kCount, stamp(comm.rank(), direction, k));
            sends.push_back(comm.Send(sent.back().data(), kCount, direction == 0 ? next : previous, 2 * k + direction));
          }
        };
        const int first = comm.rank() % 2;
        receive(first);
        receive(1 - first);
        send(1 - first);
        send(first);
        for (const Work& work : sends) work.Wait();
        for (const Work& work : receives) work.Wait();
        for (int direction : {0, 1}) {
          for (int k = 0; k < kMessages; ++k) {
            EXPECT_EQ(received[static_cast<size_t>(direction * kMessages + k)],
                      std::vector<int32_t>(kCount, stamp(direction == 0 ? previous : next, direction, k)));
          }
        }
      },
      /*messages=*/true);
}

// Compute before, between and after, without a word of the host's in between: the order is that of the streams.
TEST_P(DeviceComm, ComputeStreamWaitsAndIsWaitedFor) {
  RunOnDevices(GetParam(), [](DeviceRank& rank) {
    constexpr int64_t kCount = 70001;
    Allocator& allocator = rank.context.allocator();
    const Tensor one = Tensor::Empty(allocator, {kCount}), x = Tensor::Zeros(allocator, {kCount});
    WriteFloats(one, Floats(kCount, 1.0f));
    float expected = 0;
    for (int round = 0; round < 6; ++round) {
      Accumulate(rank.context, x, one);
      const Work work = rank.comm.AllReduce(x.data(), x.data(), kCount, ReduceOp::kSum);
      work.Wait();
      EXPECT_TRUE(work.Done());
      Accumulate(rank.context, x, one);
      expected = (expected + 1) * static_cast<float>(rank.comm.size()) + 1;
    }
    EXPECT_EQ(ReadFloats(x), Floats(kCount, expected));
    EXPECT_TRUE(rank.comm.Health().ok());
    EXPECT_TRUE(rank.world.log().Last(1).front().done());
  });
}

// What a collective needs besides its buffers is not given out again before it has been waited for.
TEST_P(DeviceComm, ScratchIsKept) {
  RunOnDevices(GetParam(), [](DeviceRank& rank) {
    constexpr int64_t kCount = 48000;
    Allocator& allocator = rank.context.allocator();
    const Tensor x = Tensor::Empty(allocator, {kCount}), junk = Tensor::Empty(allocator, {kCount});
    for (int round = 0; round < 4; ++round) {
      WriteFloats(x, Floats(kCount, 1.0f));
      WriteFloats(junk, Floats(kCount, 99.0f));
      const Work work = rank.comm.AllReduce(x.data(), x.data(), kCount, ReduceOp::kSum);
      std::vector<Tensor> others;
      for (int k = 0; k < 16; ++k) others.push_back(Tensor::Empty(allocator, {kCount * (k % 4 + 1) / 4}));
      for (int k = 0; k < 8; ++k) {
        for (const Tensor& other : others) other.CopyFrom(junk.Narrow(0, 0, other.elements()));
      }
      work.Wait();
      EXPECT_EQ(ReadFloats(x), Floats(kCount, static_cast<float>(rank.comm.size())));
    }
  });
}

// Messages through the host cannot be recorded.
using DeviceCommInGraph = DeviceComm;
INSTANTIATE_TEST_SUITE_P(Axes, DeviceCommInGraph,
                         CasesThat([](const AxisCase& axis) { return axis.backend == Backend::kNccl; }), CaseName);
TEST_P(DeviceCommInGraph, RecordedStepRepeatsAndCounts) {
  RunOnDevices(GetParam(), [](DeviceRank& rank) {
    constexpr int64_t kCount = 5003;
    Allocator& allocator = rank.context.allocator();
    Communicator& comm = rank.comm;
    const Range own = comm.Slice(kCount);
    const Tensor input = Tensor::Empty(allocator, {kCount}), x = Tensor::Empty(allocator, {kCount});
    const Tensor part = Tensor::Empty(allocator, {own.size()}), sum = Tensor::Zeros(allocator, {kCount});
    const auto step = [&] {
      x.CopyFrom(input);
      const Work reduced = comm.AllReduce(x.data(), x.data(), kCount, ReduceOp::kSum);
      reduced.Wait();
      comm.ReduceScatter(x.data(), part.data(), kCount).Wait();
      comm.AllGather(part.data(), x.data(), kCount).Wait();
      Accumulate(rank.context, sum, x);
    };
    const auto fill = [&](int round) {
      WriteFloats(input, Floats(kCount, static_cast<float>(round + rank.comm.rank())));
    };
    // n ranks of the same sum, summed again.
    const auto expected = [&](int round) {
      const int n = comm.size();
      return static_cast<float>(n * (n * round + n * (n - 1) / 2));
    };
    fill(0);
    step();
    float total = expected(0);
    EXPECT_EQ(ReadFloats(sum), Floats(kCount, total));
    const TrafficCounters once = comm.counters();
    ReplayedTraffic traffic({&comm});
    traffic.Begin();
    const auto graph = cuda::Graph::Capture(rank.context.cuda().stream, step);
    traffic.End();
    for (int round = 1; round <= 3; ++round) {
      fill(round);
      graph->Launch(rank.context.cuda().stream);
      traffic.AddReplay();
      total += expected(round);
      EXPECT_EQ(ReadFloats(sum), Floats(kCount, total)) << "round " << round;
      if (round == 2) step();  // and a step of its own in between
      if (round == 2) total += expected(2);
    }
    TrafficCounters five;
    for (int k = 0; k < 5; ++k) five += once;
    EXPECT_EQ(comm.counters().data, five.data);
    EXPECT_TRUE(comm.Health().ok());
    rank.context.Synchronize();
  });
}

// A peer does not come: whoever waits for the device is freed, and told.
TEST(NcclAbort, FreesWhoeverWaits) {
  const AxisCase axis{.ranks = 2};
  SKIP_WITHOUT_GPUS(axis.gpus());
  RunOnDevices(axis, [](DeviceRank& rank) {
    const Tensor x = Tensor::Zeros(rank.context.allocator(), {1000});
    rank.context.Synchronize();
    std::thread watchdog;
    if (rank.comm.rank() == 0) {
      const Work work = rank.comm.AllReduce(x.data(), x.data(), 1000, ReduceOp::kSum, {"lost"});
      EXPECT_FALSE(rank.world.log().Last(1).front().done());
      watchdog = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        EXPECT_TRUE(rank.comm.Health().ok());
        rank.comm.AbortDevice();
      });
      work.Wait();
      rank.context.Synchronize();  // would not return
      watchdog.join();
      EXPECT_EQ(rank.comm.Health().code(), absl::StatusCode::kAborted);
    }
    rank.host.Barrier().Wait();
    if (rank.comm.rank() == 1) rank.comm.AbortDevice();
  });
}

#ifdef SHARDIT_CUDA_EMULATION
// The library finds that a peer is gone: the watchdog hears of it, and a wait on the host ends. In the emulator, which
// can be told to find that.
TEST(NcclDeath, LostPeerEndsTheWait) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunOnDevices({.ranks = 2},
                            [](DeviceRank& rank) {
                              const Tensor x = Tensor::Zeros(rank.context.allocator(), {1000});
                              if (rank.comm.rank() == 1) return rank.host.Barrier().Wait();  // for ever
                              const Work work = rank.comm.AllReduce(x.data(), x.data(), 1000, ReduceOp::kSum);
                              EXPECT_TRUE(rank.comm.Health().ok());
                              setenv("SHARDIT_CUDA_EMULATOR_NCCL_ERROR", "1", 1);
                              EXPECT_EQ(rank.comm.Health().code(), absl::StatusCode::kUnavailable);
                              work.WaitOnHost();
                            }),
               "rank 0 of axis axis: remote process exited");
}
#endif

TEST(NcclDeath, MessagesWentTheOtherWay) {
  const AxisCase axis{.ranks = 3, .messages = true};
  SKIP_WITHOUT_GPUS(axis.gpus());
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunOnDevices(axis,
                            [](DeviceRank& rank) {
                              const Tensor x = Tensor::Zeros(rank.context.allocator(), {8});
                              rank.comm.Send(x.data(), 8, (rank.comm.rank() + 1) % 3, /*tag=*/1).Wait();
                            }),
               "even tags go to the next rank");
}

TEST(StagedDeath, CannotBeRecorded) {
  const AxisCase axis{.ranks = 2, .backend = Backend::kStaged};
  SKIP_WITHOUT_GPUS(axis.gpus());
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunOnDevices(axis,
                            [](DeviceRank& rank) {
                              const Tensor x = Tensor::Zeros(rank.context.allocator(), {8});
                              cuda::Graph::Capture(rank.context.cuda().stream, [&] {
                                rank.comm.AllReduce(x.data(), x.data(), 8, ReduceOp::kSum).Wait();
                              });
                            }),
               "cannot be recorded in a graph");
}

// Ranks that share a device are staged.
TEST(MakeDeviceComm, ChoosesByDevices) {
  const AxisCase axis{.ranks = 2, .backend = Backend::kChoose};
  SKIP_WITHOUT_GPUS(axis.gpus());
  RunOnDevices(axis, [](DeviceRank& rank) {
    EXPECT_EQ(rank.comm.name(), "axis");
    EXPECT_EQ(rank.comm.device(), rank.context.device());
    EXPECT_EQ(rank.comm.recordable(), cuda::Devices().size() > 1);
  });
}

}  // namespace
}  // namespace shardit
