#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "launch/study/launch_options.h"
#include "launch/study/slurm_array.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

SlurmArray Example() {
  SlurmArray array{.job_name = "study-1",
                   .folder = "/data/my_study/jobs",
                   .indices = {0, 3, 4, 5},
                   .command = {"/opt/shardit", "sweep", "--config", "/data/it's/s.textproto", "--task"},
                   .summary = {"/opt/shardit", "sweep", "--summary"}};
  array.resources = {.nodes = 2,
                     .tasks_per_node = 4,
                     .gpus_per_node = 4,
                     .time = "1-12:00:00",
                     .partition = "gpu,spot",
                     .max_running = 3,
                     .signal_seconds = 90,
                     .setup = {"module load openmpi", "export A='b c'"}};
  return array;
}

TEST(SlurmArray, WritesElementsAsSlurmDoes) {
  EXPECT_EQ(ArraySpec({0}, 0), "0");
  EXPECT_EQ(ArraySpec({0, 3, 4, 5, 9}, 0), "0,3-5,9");
  EXPECT_EQ(ArraySpec({1, 2}, 4), "1-2%4");
}

TEST(SlurmArray, FillsInTheTemplates) {
  const auto script = ArrayScript(Example());
  ASSERT_TRUE(script.ok()) << script.status();
  for (const char* line :
       {"\n#SBATCH --job-name=study-1\n", "\n#SBATCH --array=0,3-5%3\n", "\n#SBATCH --nodes=2\n",
        "\n#SBATCH --ntasks-per-node=4\n", "\n#SBATCH --gpus-per-node=4\n", "\n#SBATCH --time=1-12:00:00\n",
        "\n#SBATCH --partition=gpu,spot\n", "\n#SBATCH --signal=B:USR1@90\n",
        "\n#SBATCH --output=/data/my_study/jobs/%A_%a.log\n", "\nmodule load openmpi\nexport A='b c'\n",
        "\n'/opt/shardit' 'sweep' '--config' '/data/it'\\''s/s.textproto' '--task' \"$SLURM_ARRAY_TASK_ID\" &\n"}) {
    EXPECT_THAT(*script, HasSubstr(line));
  }
  EXPECT_THAT(*script, Not(HasSubstr("cpus-per-task")));  // not said
  EXPECT_THAT(*script, Not(::testing::ContainsRegex("@[A-Z_]+@")));
  const auto summary = SummaryScript(Example(), "123:124");
  ASSERT_TRUE(summary.ok());
  EXPECT_THAT(*summary, HasSubstr("\n#SBATCH --dependency=afterany:123:124\n"));
  EXPECT_THAT(*summary, HasSubstr(" --jobs=123,124 "));
  EXPECT_THAT(*summary, HasSubstr("\n'/opt/shardit' 'sweep' '--summary'\n"));
  EXPECT_THAT(*summary, Not(HasSubstr("gpus-per-node")));
  EXPECT_THAT(*summary, Not(::testing::ContainsRegex("@[A-Z_]+@")));
}

TEST(SlurmArray, ValuesAreNotReadAgain) {
  SlurmArray array = Example();
  array.resources.setup = {"echo @COMMAND@"};
  EXPECT_THAT(*ArrayScript(array), HasSubstr("\necho @COMMAND@\n"));
}

TEST(SlurmArray, RefusesWhatCouldBecomeALineOrAPattern) {
  const auto refused = [](const auto& change) {
    SlurmArray array = Example();
    change(array);
    const absl::Status status = ArrayScript(array).status();
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage) << status;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
  };
  refused([](SlurmArray& a) { a.job_name = "x\n#SBATCH --uid=0"; });
  refused([](SlurmArray& a) { a.folder = "/data/%u"; });
  refused([](SlurmArray& a) { a.folder = "/data/a b"; });
  refused([](SlurmArray& a) { a.resources.partition = "gpu --exclusive"; });
  refused([](SlurmArray& a) { a.resources.account = "$(id)"; });
  refused([](SlurmArray& a) { a.resources.qos = "a;b"; });
  refused([](SlurmArray& a) { a.resources.time = "1:00\nrm"; });
  refused([](SlurmArray& a) { a.resources.setup = {"true\nfalse"}; });
  refused([](SlurmArray& a) { a.command[3] = "a\nb"; });
  EXPECT_FALSE(SummaryScript(Example(), "12 --uid=0").ok());
}

TEST(LaunchOptions, WordsStartTheRanks) {
  EXPECT_THAT(*LaunchWords({}, 1), IsEmpty());
  EXPECT_THAT(*LaunchWords({.command = "mpirun  --quiet"}, 3), ElementsAre("mpirun", "--quiet", "-n", "3"));
  EXPECT_THAT(*LaunchWords({.command = "srun --ntasks={ranks} --mpi=pmix"}, 8),
              ElementsAre("srun", "--ntasks=8", "--mpi=pmix"));
}

TEST(LaunchOptions, PlainNamesAreSafeAnywhere) {
  for (const char* name : {"W96", "a.b_c-1"}) EXPECT_TRUE(IsPlainName(name)) << name;
  for (const char* name : {"", ".", "..", "-x", "a b", "a/b", "a\n", "\xc3\xa4", "a%j"}) {
    EXPECT_FALSE(IsPlainName(name)) << name;
  }
}

}  // namespace
}  // namespace shardit
