#include "trainer/train/job_end.h"

#include <cstdlib>

#include "gtest/gtest.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr JobEnd::Guess kGuess{.saved_bytes = 300'000'000};  // a first save of 3 s
constexpr JobEnd::NextTurn kPlain;

TEST(JobEndTest, WithoutAnEndNeverStops) {
  JobEnd end(std::nullopt, kGuess);
  end.TurnTook(1);
  end.TurnTook(1e6);
  EXPECT_FALSE(end.MustStop(1e12, kPlain));
}

TEST(JobEndTest, KeepsTimeForTurnsSavesAndTheMargin) {
  JobEnd end(1000.0, kGuess);
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 3 + JobEnd::kMargin);
  end.TurnTook(50);  // warms up
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 3 + JobEnd::kMargin);
  end.TurnTook(7);
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 7 + 2 * 3 + JobEnd::kMargin);
  EXPECT_FALSE(end.MustStop(1000 - end.Reserve(kPlain), kPlain));
  EXPECT_TRUE(end.MustStop(1000 - end.Reserve(kPlain) + 0.01, kPlain));
  EXPECT_TRUE(end.MustStop(2000, kPlain));
}

TEST(JobEndTest, LearnsWhatASaveTakes) {
  JobEnd end(1000.0, kGuess);
  end.SaveTook(0.5);  // the guess was too long
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 0.5 + JobEnd::kMargin);
  end.SaveTook(4);
  end.SaveTook(1);  // slow saves come again
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 4 + JobEnd::kMargin);
}

TEST(JobEndTest, ForgetsAHiccupSlowly) {
  JobEnd end(1000.0, {});
  end.TurnTook(1);
  end.TurnTook(20);
  end.TurnTook(1);
  EXPECT_GT(end.Reserve(kPlain), 2 * 19);
  for (int turn = 0; turn < 3000; ++turn) end.TurnTook(1);
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 1 + JobEnd::kMargin);
}

TEST(JobEndTest, RemembersARareValidationAndCountsItWhereOneIsDue) {
  JobEnd end(1000.0, {});
  end.TurnTook(1);
  end.ExtraTook(JobEnd::Extra::kValidation, 200);
  end.TurnTook(201);
  end.ExtraTook(JobEnd::Extra::kGrid, 30);
  end.ExtraTook(JobEnd::Extra::kValidation, 150);
  end.TurnTook(181);
  for (int turn = 0; turn < 5000; ++turn) end.TurnTook(1);
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 1 + JobEnd::kMargin);
  EXPECT_DOUBLE_EQ(end.Reserve({.validates = true}), 2 * 1 + 200 + JobEnd::kMargin);
  EXPECT_DOUBLE_EQ(end.Reserve({.draws_grid = true}), 2 * 1 + 30 + JobEnd::kMargin);
  // The job ends 60 s into the next validation: stop before it.
  EXPECT_TRUE(end.MustStop(1000 - 60, {.validates = true}));
  EXPECT_FALSE(end.MustStop(1000 - 60, kPlain));
}

TEST(JobEndTest, GuessesAFirstValidationFromTheTurns) {
  JobEnd end(1000.0, {.validation_turns = 12.5, .grid_turns = 4});
  end.TurnTook(9);
  end.TurnTook(2);
  EXPECT_DOUBLE_EQ(end.Reserve({.validates = true, .draws_grid = true}), 2 * 2 + 25 + 8 + JobEnd::kMargin);
  end.ExtraTook(JobEnd::Extra::kValidation, 3);  // the guess was too long
  end.TurnTook(5);
  EXPECT_DOUBLE_EQ(end.Reserve({.validates = true}), 2 * 2 + 3 + JobEnd::kMargin);
}

TEST(JobEndTest, WaitingForASaveIsTheSavesTime) {
  JobEnd end(1000.0, {});
  end.TurnTook(1);
  end.SaveStalled(40);
  end.TurnTook(41);
  end.SaveTook(45);
  EXPECT_DOUBLE_EQ(end.Reserve(kPlain), 2 * 1 + 2 * 45 + JobEnd::kMargin);
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
