// Collectives on one rank and on threads-as-ranks.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "parallel/comm/agree_status.h"
#include "parallel/comm/world.h"
#include "tests/parallel/comm_cases.h"

namespace shardit {
namespace {

using Case = void (*)(Communicator&);

class CommOnThreads : public testing::TestWithParam<int> {
 protected:
  void RunCase(Case body) {
    RunThreadWorld(GetParam(), [&](World& world) { body(world.comm()); });
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, CommOnThreads, testing::Values(1, 2, 3, 4), testing::PrintToStringParamName());

TEST_P(CommOnThreads, AllDtypes) { RunCase(comm_cases::AllDtypes); }
TEST_P(CommOnThreads, SumOrder) { RunCase(comm_cases::SumOrder); }
TEST_P(CommOnThreads, BFloat16SumOrder) { RunCase(comm_cases::BFloat16SumOrder); }
TEST_P(CommOnThreads, SendRecv) { RunCase(comm_cases::SendRecv); }
TEST_P(CommOnThreads, ManyInFlight) { RunCase(comm_cases::ManyInFlight); }
TEST_P(CommOnThreads, ByteStrings) { RunCase(comm_cases::ByteStrings); }
TEST_P(CommOnThreads, Splits) { RunCase(comm_cases::Splits); }
TEST_P(CommOnThreads, Duplicates) { RunCase(comm_cases::Duplicates); }
TEST_P(CommOnThreads, Counters) { RunCase(comm_cases::Counters); }

TEST(CommOnSelf, AllCases) {
  World world = SelfWorld();
  EXPECT_EQ(world.size(), 1);
  EXPECT_EQ(world.local_size(), 1);
  EXPECT_EQ(world.CommThreadCpuSeconds(), 0.0);
  comm_cases::AllDtypes(world.comm());
  comm_cases::ManyInFlight(world.comm());
  comm_cases::ByteStrings(world.comm());
  comm_cases::Splits(world.comm());
  comm_cases::Duplicates(world.comm());
  comm_cases::Counters(world.comm());
}

// More ranks than the direct exchange of short vectors serves, powers of two (recursive doubling) and not.
TEST(CommOnManyThreads, SumOrderAndStrings) {
  for (const int ranks : {5, 7, 9, 16}) {
    RunThreadWorld(ranks, [](World& world) {
      comm_cases::SumOrder(world.comm());
      comm_cases::BFloat16SumOrder(world.comm());
      comm_cases::ByteStrings(world.comm());
      comm_cases::BroadcastCase<float>(world.comm(), 1000, 3);
    });
  }
}

// One message is longer than the transport takes at once.
TEST(CommOnManyThreads, LongMessages) {
  RunThreadWorld(2, [](World& world) {
    const int64_t count = (40 << 20) + 3;
    std::vector<uint8_t> data(count);
    if (world.rank() == 1) {
      for (int64_t i = 0; i < count; ++i) data[i] = static_cast<uint8_t>(i * 7 + i / 251);
    }
    world.comm().Broadcast(data.data(), count, 1).Wait();
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) wrong += data[i] != static_cast<uint8_t>(i * 7 + i / 251);
    EXPECT_EQ(wrong, 0);
  });
}

TEST(CommOnManyThreads, BarrierHoldsBackEveryone) {
  constexpr int kRanks = 5;
  std::atomic<int> arrived{0};
  RunThreadWorld(kRanks, [&](World& world) {
    for (int round = 1; round <= 20; ++round) {
      arrived.fetch_add(1);
      world.comm().Barrier().Wait();
      EXPECT_GE(arrived.load(), round * kRanks);
      world.comm().Barrier().Wait();
    }
  });
}

TEST(CommOnManyThreads, MinAndMaxKeepNan) {
  RunThreadWorld(3, [](World& world) {
    float low = world.rank() == 1 ? NAN : 1.0f, high = low;
    world.comm().AllReduce(&low, &low, 1, ReduceOp::kMin).Wait();
    world.comm().AllReduce(&high, &high, 1, ReduceOp::kMax).Wait();
    EXPECT_TRUE(std::isnan(low));
    EXPECT_TRUE(std::isnan(high));
    BFloat16 half = BFloat16::FromFloat(world.rank() == 1 ? NAN : 1.0f);
    world.comm().AllReduce(&half, &half, 1, ReduceOp::kMin).Wait();
    EXPECT_TRUE(std::isnan(half.ToFloat()));
  });
}

// Sums over ranks that each sum micro-batches in a tree nest: any power-of-two number of ranks gives the same bits.
TEST(TreeReduce, SumsOfMicroBatchesNest) {
  constexpr int kShards = 8;
  std::vector<float> shards;
  for (int s = 0; s < kShards; ++s) shards.push_back(comm_cases::RoughInput(s, 12345));
  const float whole = comm_cases::TreeSum(shards);
  for (const int ranks : {1, 2, 4, 8}) {
    RunThreadWorld(ranks, [&](World& world) {
      const Range mine = world.comm().Slice(kShards);
      float sum = comm_cases::TreeSum({shards.begin() + mine.begin, shards.begin() + mine.end});
      world.comm().AllReduce(&sum, &sum, 1, ReduceOp::kSum).Wait();
      EXPECT_EQ(std::bit_cast<uint32_t>(sum), std::bit_cast<uint32_t>(whole)) << ranks << " ranks";
    });
  }
}

TEST(World, ThreadsShareOneHost) {
  RunThreadWorld(3, [](World& world) {
    EXPECT_EQ(world.local_rank(), world.rank());
    EXPECT_EQ(world.local_size(), 3);
    EXPECT_FALSE(world.host_name().empty());
    std::thread::id thread;
    world.RunOnCommThread([&] { thread = std::this_thread::get_id(); });
    EXPECT_NE(thread, std::this_thread::get_id());
    EXPECT_NE(thread, std::thread::id());
    EXPECT_GT(world.CommThreadCpuSeconds(), 0.0);
  });
}

TEST(CollectiveLog, RecordsTheLastCollectives) {
  RunThreadWorld(2, [](World& world) {
    const int64_t before = world.log().Last().back().number;
    float x = 1;
    for (int i = 0; i < CollectiveLog::kSize; ++i) {
      world.comm().AllReduce(&x, &x, 1, ReduceOp::kMax, {"loss", /*control=*/i % 2 == 1}).Wait();
    }
    const std::vector<CollectiveRecord> all = world.log().Last();
    ASSERT_EQ(static_cast<int64_t>(all.size()), CollectiveLog::kSize);
    EXPECT_EQ(all.front().number, before + 1);
    EXPECT_EQ(all.back().sequence - all.front().sequence, CollectiveLog::kSize - 1);
    const CollectiveRecord last = world.log().Last(1).front();
    EXPECT_EQ(last.kind, CollectiveKind::kAllReduce);
    EXPECT_EQ(last.comm, "world");
    EXPECT_STREQ(last.site, "loss");
    EXPECT_TRUE(last.control);
    EXPECT_EQ(last.bytes, 4);
    EXPECT_TRUE(last.started() && last.done());
    EXPECT_LE(last.issued, last.start);
    EXPECT_LE(last.start, last.end);
    const std::string line = Format(last, last.end);
    EXPECT_NE(line.find("all-reduce 4 bytes at loss (control)"), std::string::npos) << line;
  });
}

TEST(CollectiveLog, ShowsWhatIsNotDone) {
  RunThreadWorld(2, [](World& world) {
    float x = 0;
    Work work;
    if (world.rank() == 0) {
      work = world.comm().Recv(&x, 1, 1, 5, {"pipeline"});
      EXPECT_FALSE(work.Done());
      EXPECT_NE(Format(world.log().Last(1).front(), std::chrono::steady_clock::now()).find("not done"),
                std::string::npos);
    }
    world.comm().Barrier().Wait();
    if (world.rank() == 1) work = world.comm().Send(&x, 1, 0, 5);
    work.Wait();
  });
}

TEST(AgreeStatus, AllWell) {
  RunThreadWorld(3, [](World& world) {
    const Traffic data = world.comm().counters().TotalData();
    EXPECT_TRUE(AgreeStatus(world.comm(), absl::OkStatus()).ok());
    EXPECT_EQ(world.comm().counters().TotalData(), data);
  });
}

TEST(AgreeStatus, OneRankFails) {
  RunThreadWorld(4, [](World& world) {
    const absl::Status mine =
        world.rank() == 2 ? absl::DataLossError("shard 2: expected 8 bytes, got 7") : absl::OkStatus();
    EXPECT_EQ(AgreeStatus(world.comm(), mine), absl::DataLossError("rank 2: shard 2: expected 8 bytes, got 7"));
  });
}

TEST(AgreeStatus, EqualFailuresAreNamedTogether) {
  RunThreadWorld(4, [](World& world) {
    absl::Status mine = absl::NotFoundError("no x");
    if (world.rank() == 1) mine = absl::InternalError("y");
    if (world.rank() == 3) mine = absl::OkStatus();
    EXPECT_EQ(AgreeStatus(world.comm(), mine), absl::NotFoundError("ranks 0, 2: no x; rank 1: y"));
  });
}

TEST(AgreeStatus, ManyFailuresAreCut) {
  RunThreadWorld(11, [](World& world) {
    const absl::Status agreed = AgreeStatus(world.comm(), absl::InternalError(absl::StrCat("e", world.rank())));
    EXPECT_NE(agreed.message().find("rank 7: e7; and 3 other failures"), std::string_view::npos) << agreed;
  });
}

// Such as the exit code that trainer/run_config attaches: all ranks must leave with the same one.
TEST(AgreeStatus, PayloadsOfTheFirstFailureReachAllRanks) {
  RunThreadWorld(3, [](World& world) {
    absl::Status mine = world.rank() == 2 ? absl::DataLossError("y") : absl::OkStatus();
    if (world.rank() == 1) {
      mine = absl::FailedPreconditionError("x");
      mine.SetPayload("a url", absl::Cord("64"));
      mine.SetPayload("b", absl::Cord(std::string("\0 9 ", 4)));
    }
    absl::Status expected = absl::FailedPreconditionError("rank 1: x; rank 2: y");
    expected.SetPayload("a url", absl::Cord("64"));
    expected.SetPayload("b", absl::Cord(std::string("\0 9 ", 4)));
    EXPECT_EQ(AgreeStatus(world.comm(), mine), expected);
  });
}

TEST(AgreeStatus, OneRankKeepsItsMessage) {
  World world = SelfWorld();
  EXPECT_EQ(AgreeStatus(world.comm(), absl::NotFoundError("no x")), absl::NotFoundError("no x"));
}

TEST(CommDeath, BadPeerIsNamed) {
  EXPECT_DEATH(RunThreadWorld(2,
                              [](World& world) {
                                float x = 0;
                                world.comm().Send(&x, 1, world.rank(), 0).Wait();
                              }),
               "send on world.*peer");
}

TEST(CommDeath, MessagesOfDifferentSizes) {
  EXPECT_DEATH(RunThreadWorld(2,
                              [](World& world) {
                                std::vector<float> x(4);
                                world.comm().AllReduce(x.data(), x.data(), 1 + world.rank(), ReduceOp::kSum).Wait();
                              }),
               "the two sides differ in size");
}

TEST(CommDeath, AbortEndsTheProcessWithTheCode) {
  EXPECT_EXIT(RunThreadWorld(2,
                             [](World& world) {
                               if (world.rank() == 1) world.Abort(76);
                               float x = 0;
                               world.comm().Recv(&x, 1, 1, 0).Wait();  // never sent
                             }),
              testing::ExitedWithCode(76), "");
}

}  // namespace
}  // namespace shardit
