#include "trainer/train/job_end.h"

#include <cstdlib>

#include "gtest/gtest.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kBytes = 300'000'000;  // a first save of 3 s

TEST(JobEndTest, WithoutAnEndNeverStops) {
  JobEnd end(std::nullopt, kBytes);
  end.TurnTook(1);
  end.TurnTook(1e6);
  EXPECT_FALSE(end.MustStop(1e12));
}

TEST(JobEndTest, KeepsTimeForTurnsSavesAndTheMargin) {
  JobEnd end(1000.0, kBytes);
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 3 + JobEnd::kMargin);
  end.TurnTook(50);  // warms up
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 3 + JobEnd::kMargin);
  end.TurnTook(7);
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 7 + 2 * 3 + JobEnd::kMargin);
  EXPECT_FALSE(end.MustStop(1000 - end.Reserve()));
  EXPECT_TRUE(end.MustStop(1000 - end.Reserve() + 0.01));
  EXPECT_TRUE(end.MustStop(2000));
}

TEST(JobEndTest, LearnsWhatASaveTakes) {
  JobEnd end(1000.0, kBytes);
  end.SaveTook(0.5);  // the guess was too long
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 0.5 + JobEnd::kMargin);
  end.SaveTook(4);
  end.SaveTook(1);  // slow saves come again
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 4 + JobEnd::kMargin);
}

TEST(JobEndTest, ForgetsAHiccupSlowly) {
  JobEnd end(1000.0, 0);
  end.TurnTook(1);
  end.TurnTook(20);
  end.TurnTook(1);
  EXPECT_GT(end.Reserve(), 2 * 19);
  for (int turn = 0; turn < 3000; ++turn) end.TurnTook(1);
  EXPECT_DOUBLE_EQ(end.Reserve(), 2 * 1 + JobEnd::kMargin);
}

TEST(JobEndTest, ReadsTheEnvironment) {
  unsetenv("SHARDIT_JOB_END");
  unsetenv("SLURM_JOB_END_TIME");
  EXPECT_EQ(*JobEnd::FromEnvironment(), std::nullopt);
  setenv("SLURM_JOB_END_TIME", "1700000000", 1);
  EXPECT_EQ(*JobEnd::FromEnvironment(), 1700000000.0);
  setenv("SHARDIT_JOB_END", "1600000000", 1);
  EXPECT_EQ(*JobEnd::FromEnvironment(), 1600000000.0);
  setenv("SHARDIT_JOB_END", "2023-11-14T22:13", 1);
  EXPECT_EQ(ExitCodeOf(JobEnd::FromEnvironment().status()), ExitCode::kUsage);
  unsetenv("SHARDIT_JOB_END");
  setenv("SLURM_JOB_END_TIME", "Unknown", 1);
  EXPECT_EQ(*JobEnd::FromEnvironment(), std::nullopt);
  unsetenv("SLURM_JOB_END_TIME");
}

}  // namespace
}  // namespace shardit
