// The parts of trainer/faults that several ranks run together, on ranks that are threads: the hang watchdog, the
// agreement at the start, the lease, checksums of replicas and the record of skipped steps.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/faults/agreement.h"
#include "trainer/faults/hang_watchdog.h"
#include "trainer/faults/replica_checksum.h"
#include "trainer/faults/run_lease.h"
#include "trainer/faults/skipped_steps.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Contents(const std::string& path) { return ReadWholeFile(path, 1 << 20).value_or(""); }

TEST(HangWatchdogTest, NamesTheRankThatDidNotComeToACollective) {
  const TempFolder folder;
  std::vector<int32_t> values(3, 1);
  std::vector<Work> works(3);
  std::mutex mutex;
  Verdict verdict;
  std::atomic<bool> judged{false};
  RunThreadWorld(3, [&](World& world) {
    Beacon beacon;
    OpRing ops;
    WatchdogOptions options{.run_folder = folder.path(), .coordinates = "dp=0", .hang_seconds = 0.4};
    options.abort = [&](const Verdict& line) {
      std::lock_guard<std::mutex> lock(mutex);
      verdict = line;
      judged = true;
    };
    auto watchdog = HangWatchdog::Start(world, beacon, ops, options);
    ASSERT_TRUE(watchdog.ok()) << watchdog.status();
    const size_t rank = static_cast<size_t>(world.rank());
    beacon.Enter(rank == 1 ? Phase::kDataWait : Phase::kCollective, 7);
    const auto sum = [&] {
      return world.comm().AllReduce(&values[rank], &values[rank], 1, ReduceOp::kSum, {.tag = "losses"});
    };
    if (rank != 1) works[rank] = sum();
    while (!judged) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (rank == 1) works[rank] = sum();  // so that the world can end in order
    works[rank].Wait();
  });
  EXPECT_THAT(verdict.odd, ElementsAre(1));
  EXPECT_THAT(verdict.line, HasSubstr("data_wait of step 7"));
  const std::string report = Contents(JoinPath(folder.path(), "hang_report.txt"));
  EXPECT_THAT(report, HasSubstr("* rank 1"));
  EXPECT_THAT(report, HasSubstr("all-reduce 'losses' on world"));
}

TEST(HangWatchdogTest, WaitsForARankThatIsOnlySlow) {
  const TempFolder folder;
  std::atomic<int> verdicts{0};
  RunThreadWorld(3, [&](World& world) {
    Beacon beacon;
    OpRing ops;
    WatchdogOptions options{.run_folder = folder.path(), .hang_seconds = 2.0};
    options.abort = [&](const Verdict&) { ++verdicts; };
    auto watchdog = HangWatchdog::Start(world, beacon, ops, options);
    ASSERT_TRUE(watchdog.ok()) << watchdog.status();
    for (int i = 0; i < 200 && world.rank() == 1; ++i) {
      ops.Record("linear");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    world.comm().Barrier().Wait();
  });
  EXPECT_EQ(verdicts, 0);
}

// What one rank that stays in `phase` hears of its watchdog within `seconds`, while `work` is called every 20 ms. Where
// it should hear nothing, the deadline is one that no busy machine reaches between two calls.
std::string VerdictOn(const TempFolder& folder, Phase phase, double seconds, const std::function<void(Beacon&)>& work,
                      double hang_seconds = 0.4) {
  std::mutex mutex;
  std::string line;
  const auto read = [&] {
    std::lock_guard<std::mutex> lock(mutex);
    return line;
  };
  RunThreadWorld(1, [&](World& world) {
    Beacon beacon;
    OpRing ops;
    WatchdogOptions options{.run_folder = folder.path(), .hang_seconds = hang_seconds, .reporter_seconds = 0.4};
    options.abort = [&](const Verdict& verdict) {
      std::lock_guard<std::mutex> lock(mutex);
      line = verdict.line;
    };
    auto watchdog = HangWatchdog::Start(world, beacon, ops, options);
    ASSERT_TRUE(watchdog.ok()) << watchdog.status();
    beacon.Enter(phase, 3);
    for (double waited = 0.0; waited < seconds && read().empty(); waited += 0.02) {
      work(beacon);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  return read();
}

TEST(HangWatchdogTest, PiecesOfACheckpointAreProgressOfASaveAlone) {
  const TempFolder folder;
  const auto count = [](Beacon& beacon) { ++beacon.pieces(); };
  EXPECT_EQ(VerdictOn(folder, Phase::kSave, 4.0, count, 2.0), "");
  EXPECT_THAT(VerdictOn(folder, Phase::kForward, 30.0, count), HasSubstr("forward of step 3"));
  EXPECT_THAT(VerdictOn(folder, Phase::kSave, 30.0, [](Beacon&) {}), HasSubstr("save of step 3"));
}

TEST(HangWatchdogTest, EndsAJobWhoseFolderIsGone) {
  const TempFolder folder;
  const std::string line = VerdictOn(folder, Phase::kForward, 30.0, [&](Beacon&) {
    RemoveTree(PosixFileSystem(), JoinPath(folder.path(), "watch")).IgnoreError();
  });
  EXPECT_THAT(line, HasSubstr("no report came"));
}

TEST(HangWatchdogTest, LeavesMovingRanksAlone) {
  const TempFolder folder;
  std::atomic<int> verdicts{0};
  RunThreadWorld(2, [&](World& world) {
    Beacon beacon;
    OpRing ops;
    WatchdogOptions options{.run_folder = folder.path(), .hang_seconds = 2.0};
    options.abort = [&](const Verdict&) { ++verdicts; };
    auto watchdog = HangWatchdog::Start(world, beacon, ops, options);
    ASSERT_TRUE(watchdog.ok()) << watchdog.status();
    // One rank moves by operations, the other by phases; both for longer than the deadline.
    for (int i = 0; i < 200; ++i) {
      if (world.rank() == 0) ops.Record("linear");
      if (world.rank() == 1) beacon.Enter(Phase::kForward, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  EXPECT_EQ(verdicts, 0);
  EXPECT_EQ(KindOfPath(JoinPath(folder.path(), "hang_report.txt")), PathKind::kMissing);
  EXPECT_EQ(KindOfPath(JoinPath(folder.path(), "watch")), PathKind::kMissing);
}

TEST(AgreementTest, NamesTheFieldThatDiffers) {
  const absl::StatusOr<std::string> binary = BinaryIdentity();
  ASSERT_TRUE(binary.ok()) << binary.status();
  RunThreadWorld(3, [&](World& world) {
    StartFacts facts{.config_text = "train { seed: 1 }", .binary = *binary, .data = "a.h5 (3 samples)"};
    EXPECT_TRUE(AgreeOnStart(world.comm(), facts).ok());
    if (world.rank() == 2) facts.config_text = "train { seed: 2 }";
    const absl::Status config = AgreeOnStart(world.comm(), facts);
    EXPECT_EQ(ExitCodeOf(config), ExitCode::kUsage);
    EXPECT_THAT(config.message(), HasSubstr("rank 2"));
    EXPECT_THAT(config.message(), HasSubstr("train.seed: 1 -> 2"));

    facts.config_text = "";
    if (world.rank() == 1) facts.binary = "another";
    EXPECT_THAT(AgreeOnStart(world.comm(), facts).message(), HasSubstr("CRC32C"));
    facts.binary = "";
    if (world.rank() == 0) facts.data = "b.h5 (4 samples)";
    EXPECT_THAT(AgreeOnStart(world.comm(), facts).message(), HasSubstr("b.h5 (4 samples) -> a.h5 (3 samples)"));
  });
}

TEST(ReplicaChecksumTest, IsIndependentOfCutAndOrder) {
  std::vector<float> values(300000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 977);
  const uint64_t whole = ChecksumBits(values);
  RankContext context(3);
  EXPECT_EQ(ChecksumBits(context, Tensor::Borrow(values.data(), {300000})), whole);
  const std::span<const float> all = values;
  EXPECT_EQ(ChecksumBits(all.subspan(1000), 1000) + ChecksumBits(all.first(1000)), whole);
  values[5] = -values[5];
  EXPECT_NE(ChecksumBits(values), whole);
  values[5] = -values[5];
  std::swap(values[5], values[6]);
  EXPECT_NE(ChecksumBits(values), whole);
  EXPECT_NE(ChecksumBits(std::vector<float>{0.0f}), ChecksumBits(std::vector<float>{-0.0f}));
}

TEST(ReplicaChecksumTest, NamesTheRankThatDrifted) {
  RunThreadWorld(3, [](World& world) {
    const std::vector<float> weights(100, 0.5f);
    std::vector<float> biases(7, 0.25f);
    const auto parts = [&] {
      return std::vector<ReplicaPart>{{"weights", ChecksumBits(weights)}, {"biases", ChecksumBits(biases)}};
    };
    const std::string place = absl::StrCat("rank ", world.rank(), " on node", world.rank());
    EXPECT_TRUE(CompareReplicas(world.comm(), parts(), place).ok());
    if (world.rank() == 1) biases[3] = std::nextafter(biases[3], 1.0f);
    const absl::Status status = CompareReplicas(world.comm(), parts(), place);
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("rank 1 on node1 against the majority"));
    EXPECT_THAT(status.message(), HasSubstr("biases"));
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("weights")));
  });
}

TEST(SkippedStepsTest, GathersTheSamplesOfAllRanks) {
  const TempFolder folder;
  const std::string path = JoinPath(folder.path(), "skipped.jsonl");
  RunThreadWorld(2, [&](World& world) {
    const std::vector<int64_t> ids = {10 + world.rank(), 20 + world.rank()};
    std::string line;
    const SkippedStep skipped{.step = 3, .loss = std::numeric_limits<double>::quiet_NaN(), .grad_norm = 2.5};
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(RecordSkippedStep(world.comm(), skipped, ids, world.rank() == 0 ? path : "", &line).ok());
    }
    EXPECT_EQ(line, R"({"step":3,"reason":"not finite","loss":null,"grad_norm":2.5,"sample_ids":[10,20,11,21]})");
  });
  const std::string text = Contents(path);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

absl::StatusOr<std::unique_ptr<RunLease>> TakeAlone(const std::string& folder, LeaseOptions options) {
  World world = SelfWorld();
  if (!options.lost) options.lost = [](const std::string& holder) { ADD_FAILURE() << "lost to " << holder; };
  return RunLease::Take(world, folder, options);
}

TEST(RunLeaseTest, ALiveHolderIsRefusedByNameOnAllRanks) {
  const TempFolder folder;
  const auto first = TakeAlone(folder.path(), {});
  ASSERT_TRUE(first.ok()) << first.status();
  RunThreadWorld(2, [&](World& world) {
    const auto second = RunLease::Take(world, folder.path(), {.remote_patience_seconds = 0.1});
    EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kCannotCreate) << second.status();
    EXPECT_THAT(second.status().message(), HasSubstr(absl::StrCat("pid ", getpid())));
  });
}

TEST(RunLeaseTest, AReleasedOneAndADeadLocalHoldersAreTakenAtOnce) {
  const TempFolder folder;
  const LeaseOptions patient{.remote_patience_seconds = 1e9};
  ASSERT_TRUE(TakeAlone(folder.path(), patient).ok());
  EXPECT_EQ(Contents(JoinPath(folder.path(), "lease")), "");
  // As a killed process leaves it: its name, no lock.
  std::ofstream(JoinPath(folder.path(), "lease")) << "here\tpid 1 since then\t4\n";
  EXPECT_TRUE(TakeAlone(folder.path(), {.remote_patience_seconds = 1e9, .host = "here"}).ok());
}

TEST(RunLeaseTest, ARemoteHolderIsTakenOnlyWhenItNoLongerRenews) {
  const TempFolder folder;
  const std::string path = JoinPath(folder.path(), "lease");
  const LeaseOptions options{.renew_seconds = 0.05, .remote_patience_seconds = 1.5, .host = "here"};
  std::ofstream(path) << "elsewhere\tpid 1 since then\t4\n";
  std::thread renewing([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    // In place: an empty file is a released one.
    std::fstream(path, std::ios::in | std::ios::out) << "elsewhere\tpid 1 since then\t5\n";
  });
  const auto refused = TakeAlone(folder.path(), options);
  renewing.join();
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kCannotCreate) << refused.status();
  EXPECT_THAT(refused.status().message(), HasSubstr("elsewhere"));
  EXPECT_TRUE(TakeAlone(folder.path(), options).ok());
}

TEST(RunLeaseTest, AHolderNoticesThatItLostTheFolder) {
  const TempFolder folder;
  std::atomic<bool> lost{false};
  LeaseOptions options{.renew_seconds = 0.02};
  options.lost = [&](const std::string& holder) {
    EXPECT_THAT(holder, HasSubstr("elsewhere"));
    lost = true;
  };
  const auto lease = TakeAlone(folder.path(), options);
  ASSERT_TRUE(lease.ok());
  const std::string other = JoinPath(folder.path(), "other");
  std::ofstream(other) << "elsewhere\tpid 1 since then\t1\n";
  ASSERT_EQ(std::rename(other.c_str(), JoinPath(folder.path(), "lease").c_str()), 0);
  for (int i = 0; i < 500 && !lost; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(lost);
}

TEST(RunLeaseTest, AHolderNoticesThatItLostTheFolderToAJobThatHasEnded) {
  const TempFolder folder;
  const std::string path = JoinPath(folder.path(), "lease");
  std::atomic<bool> lost{false};
  LeaseOptions options{.renew_seconds = 0.5};  // not while the file is emptied
  options.lost = [&](const std::string& taker) {
    EXPECT_THAT(taker, HasSubstr("ended"));
    lost = true;
  };
  const auto lease = TakeAlone(folder.path(), options);
  ASSERT_TRUE(lease.ok());
  ASSERT_EQ(truncate(path.c_str(), 0), 0);  // as the taker's release does
  for (int i = 0; i < 500 && !lost; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(lost);
  EXPECT_EQ(Contents(path), "");
}

}  // namespace
}  // namespace shardit
