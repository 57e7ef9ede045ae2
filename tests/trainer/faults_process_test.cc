// What a run asks of its process and its folder: signals, and room for a checkpoint.
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>

#include "core/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/run_folder.h"
#include "trainer/train/stop_signal.h"

namespace shardit {
namespace {

using ::testing::HasSubstr;

TEST(StopSignalTest, KeepsTheFirstAndSharesItWithNestedObjects) {
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    const StopSignal early;
    EXPECT_FALSE(early.requested());
    EXPECT_EQ(early.name(), "");
    raise(number);
    const StopSignal later;  // the loop's own: it must not forget what came during the start-up
    EXPECT_TRUE(later.requested());
    raise(SIGTERM);
    raise(SIGTERM);
    EXPECT_EQ(later.name(), std::string("SIG") + sigabbrev_np(number));
  }
  EXPECT_FALSE(StopSignal().requested());
}

TEST(StopSignalTest, AnInsistentInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignal signals;
        raise(SIGINT);
        raise(SIGINT);  // too soon to be a second wish
        std::this_thread::sleep_for(std::chrono::milliseconds(1000 * StopSignal::kInsistSeconds + 100));
        raise(SIGTERM);
        fprintf(stderr, "still here");
        raise(SIGINT);
        fprintf(stderr, "and still");
      },
      ::testing::KilledBySignal(SIGINT), "still here$");
}

TEST(RunFolderTest, RehearsesACheckpointAndLeavesNothing) {
  const TempFolder folder;
  RunThreadWorld(2, [&](World& world) {
    const absl::StatusOr<RunFolder> run = RunFolder::Open(world.comm(), folder.path());
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_TRUE(run->RehearseCheckpoint(world.comm(), 1 << 20).ok());
    const absl::Status full = run->RehearseCheckpoint(world.comm(), int64_t{1} << 60);
    EXPECT_EQ(ExitCodeOf(full), ExitCode::kIo) << full;
    EXPECT_THAT(full.message(), HasSubstr("bytes, free are "));
    // More than the file system has, but not more than a file may have. Not a byte more than is free: memory would be
    // given out, until others run short of it, before that is noticed.
    const int64_t all = static_cast<int64_t>(std::filesystem::space(folder.path()).capacity);
    const absl::Status nearly = run->RehearseCheckpoint(world.comm(), all + 1);
    EXPECT_EQ(ExitCodeOf(nearly), ExitCode::kIo) << nearly;
    EXPECT_TRUE(ListFolder(run->checkpoints())->empty());
  });
}

}  // namespace
}  // namespace shardit
