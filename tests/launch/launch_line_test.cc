// Launch lines are tried, not believed: stand-ins for mpirun that answer rightly, wrongly, not at all.
#include "launch/machine/launch_line.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "core/base/file.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

class LaunchLineTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { RemoveTree(PosixFileSystem(), folder_).IgnoreError(); }

  // A program of this name that does `script`; its path.
  std::string Write(const std::string& name, const std::string& script) {
    const std::string path = JoinPath(folder_, name);
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    chmod(path.c_str(), 0755);
    return path;
  }

  std::string folder_ = "/tmp/shardit_launch_line_XXXXXX";
};

TEST_F(LaunchLineTest, WorksWhereAllRanksMeet) {
  const std::string line = Write("launch", "[ \"$1 $2\" = '-n 3' ] && echo 'shardit probe: 3 ranks'");
  EXPECT_TRUE(LaunchLineWorks(line, 3));
  EXPECT_FALSE(LaunchLineWorks(line, 2));
}

TEST_F(LaunchLineTest, AsksThisProgramForAProbe) {
  const std::string line = Write("launch", "printf '%s ' \"$@\" > " + JoinPath(folder_, "asked"));
  EXPECT_FALSE(LaunchLineWorks(line, 2));
  const auto asked = ReadWholeFile(JoinPath(folder_, "asked"), 4096);
  ASSERT_TRUE(asked.ok());
  EXPECT_NE(asked->find(" doctor --probe "), std::string::npos) << *asked;
}

TEST_F(LaunchLineTest, FailsWhereRanksDoNotMeet) {
  // srun without a common interface starts as many worlds of one rank.
  EXPECT_FALSE(LaunchLineWorks(Write("alone", "echo 'shardit probe: 1 ranks'; echo 'shardit probe: 1 ranks'"), 2));
  EXPECT_FALSE(LaunchLineWorks(Write("failing", "echo 'shardit probe: 2 ranks'; exit 1"), 2));
  EXPECT_FALSE(LaunchLineWorks(JoinPath(folder_, "missing"), 2));
}

TEST_F(LaunchLineTest, GivesUpAndLeavesNothingRunning) {
  const std::string pid_file = JoinPath(folder_, "pid");
  EXPECT_FALSE(LaunchLineWorks(Write("hanging", "echo $$ > " + pid_file + "; sleep 1000"), 2, absl::Seconds(5)));
  int pid = 0;
  std::ifstream(pid_file) >> pid;
  ASSERT_GT(pid, 0);
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(LaunchLineTest, FindsTheFirstThatWorks) {
  const std::string path = std::getenv("PATH");
  Write("mpirun", "[ \"$1\" = --oversubscribe ] && echo 'shardit probe: 2 ranks'");
  setenv("PATH", (folder_ + ":" + path).c_str(), 1);
  const auto found = FindLaunchLine(2);
  Write("mpirun", "exit 1");
  unsetenv("SLURM_JOB_ID");
  const auto none = FindLaunchLine(2);
  setenv("PATH", path.c_str(), 1);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, "mpirun --oversubscribe --bind-to none");
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.status().message().find("tried: mpirun --bind-to none;"), std::string::npos) << none.status();
}

TEST_F(LaunchLineTest, TriesSrunOnlyInsideAJob) {
  const auto tries_srun = [] { return LaunchLinesToTry().back().starts_with("srun"); };
  unsetenv("SLURM_JOB_ID");
  EXPECT_FALSE(tries_srun());
  setenv("SLURM_JOB_ID", "1", 1);
  EXPECT_TRUE(tries_srun());
  unsetenv("SLURM_JOB_ID");
}

TEST_F(LaunchLineTest, OneRankNeedsNone) { EXPECT_EQ(*FindLaunchLine(1), ""); }

}  // namespace
}  // namespace shardit
