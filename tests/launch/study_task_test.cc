#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "launch/study/child_process.h"
#include "launch/study/local_queue.h"
#include "launch/study/task.h"
#include "tests/temp_folder.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/cpu_share.h"

namespace shardit {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string NewFolder() {
  static const TempFolder base;
  static int count = 0;
  const std::string folder = base / std::to_string(count++);
  std::filesystem::create_directories(folder);
  return folder;
}

// A stage of a shell script, done when the file `result` is in the task's folder. The script runs in that folder.
Stage ScriptStage(const std::string& folder, const std::string& script, const std::string& result = "result") {
  const std::string path = folder + "/" + result;
  return {.name = result,
          .argv = {"sh", "-c", "cd '" + folder + "'; " + script},
          .done = [path]() -> absl::StatusOr<bool> { return std::filesystem::exists(path); }};
}

Task ScriptTask(const std::string& script) {
  const std::string folder = NewFolder();
  return {.name = "task", .folder = folder, .stages = {ScriptStage(folder, script)}};
}

TaskRecord RunOnce(const Task& task, const TaskOptions& options = {}) {
  StopRelay relay;
  return RunTask(task, options, relay);
}

// Lines that a script wrote into `starts`.
int Starts(const Task& task) {
  std::ifstream file(task.folder + "/starts");
  int lines = 0;
  for (std::string line; std::getline(file, line);) ++lines;
  return lines;
}

void WaitForFile(const std::string& path) {
  while (!std::filesystem::exists(path)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(ChildProcess, SaysHowAndWhyItEnded) {
  const std::string log = NewFolder() + "/log";
  const auto run = [&](const std::string& script) {
    auto child = ChildProcess::Start({.argv = {"sh", "-c", script}, .log = log});
    EXPECT_TRUE(child.ok()) << child.status();
    return (*child)->Wait();
  };
  EXPECT_EQ(run("echo nothing wrong").exit_code, 0);
  const ChildResult failed = run("echo 'shardit: it broke' >&2; echo chatter; exit 65");
  EXPECT_EQ(failed.exit_code, 65);
  EXPECT_EQ(failed.last_error, "it broke");
  const ChildResult killed = run("echo last words; kill -9 $$");
  EXPECT_EQ(killed.exit_code, 128 + SIGKILL);
  EXPECT_EQ(killed.last_error, "last words");
  EXPECT_EQ(run("exit 3").last_error, "");  // of this child, not of those before it in the log
}

TEST(ChildProcess, SignalsReachItsWholeGroup) {
  const std::string folder = NewFolder();
  auto child = ChildProcess::Start(
      {.argv = {"sh", "-c",
                "cd '" + folder + "'; (trap 'touch told; exit' USR1; touch up; while :; do sleep 0.01; done) & wait"},
       .log = folder + "/log"});
  ASSERT_TRUE(child.ok());
  WaitForFile(folder + "/up");
  (*child)->Signal(SIGUSR1);
  EXPECT_EQ((*child)->Wait().exit_code, 128 + SIGUSR1);
  WaitForFile(folder + "/told");
}

TEST(ChildProcess, HearsWhatItsParentBlocks) {
  const StopRelay relay;
  auto child = ChildProcess::Start({.argv = {"sleep", "5"}, .log = NewFolder() + "/log"});
  ASSERT_TRUE(child.ok());
  (*child)->Signal(SIGUSR1);
  EXPECT_EQ((*child)->Wait().exit_code, 128 + SIGUSR1);
}

TEST(ChildProcess, RefusesProgramsThatDoNotExist) {
  const auto child = ChildProcess::Start({.argv = {"no-such-program"}, .log = NewFolder() + "/log"});
  EXPECT_EQ(ExitCodeOf(child.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(child.status().message()), HasSubstr("no-such-program"));
  EXPECT_EQ(ExitCodeOf(ChildProcess::Start({.argv = {"true"}, .log = "/no/such/folder/log"}).status()), ExitCode::kIo);
}

TEST(ChildProcess, ShowsNothingThatMovesATerminal) {
  EXPECT_EQ(LastErrorLine("a\n\033[2J\xff\n\n"), "\\x1b[2J\\xff");
  EXPECT_EQ(LastErrorLine("shardit: one\nshardit: two\nmpirun: gone\n"), "two");
  EXPECT_EQ(LastErrorLine("\n \n"), "");
}

TEST(Task, RunsWhatIsNotDoneAndNothingElse) {
  Task task = ScriptTask("echo x >> starts; touch result");
  const TaskRecord record = RunOnce(task);
  EXPECT_EQ(record.state, TaskState::kFinished);
  EXPECT_EQ(record.attempts, 1);
  EXPECT_EQ(RunOnce(task).attempts, 1);
  EXPECT_EQ(Starts(task), 1);
  EXPECT_EQ(ReadTaskRecord(task.folder).state, TaskState::kFinished);
}

TEST(Task, RunsStagesInOrder) {
  Task task = ScriptTask("touch result");
  task.stages.push_back(ScriptStage(task.folder, "test -e result && touch second", "second"));
  EXPECT_EQ(RunOnce(task).state, TaskState::kFinished);
  EXPECT_EQ(ReadTaskRecord(task.folder).stage, "second");
  EXPECT_EQ(ReadTaskRecord(task.folder).attempts, 2);
}

TEST(Task, DoesNotRepeatWhatWouldFailAgain) {
  for (const int code : {64, 65, 77, 78}) {
    const Task task = ScriptTask("echo x >> starts; echo 'shardit: bad file' >&2; exit " + std::to_string(code));
    const TaskRecord record = RunOnce(task);
    EXPECT_EQ(record.state, TaskState::kFailed);
    EXPECT_EQ(record.last_exit_code, code);
    EXPECT_THAT(record.message, HasSubstr("bad file"));
    EXPECT_EQ(Starts(task), 1);
  }
}

TEST(Task, RepeatsWhatMayPassUpToTheLimit) {
  for (const std::string end : {"exit 1", "kill -9 $$", "exit 75", "exit 0"}) {
    const Task task = ScriptTask("echo x >> starts; " + end);
    const TaskRecord record = RunOnce(task, {.max_restarts = 2});
    EXPECT_EQ(record.state, TaskState::kFailed) << end;
    EXPECT_EQ(Starts(task), 3) << end;
    EXPECT_THAT(record.message, StartsWith("no progress in 3 starts"));
  }
  const Task second_time = ScriptTask("echo x >> starts; test $(wc -l < starts) -ge 2 && touch result");
  EXPECT_EQ(RunOnce(second_time).state, TaskState::kFinished);
  EXPECT_EQ(Starts(second_time), 2);
}

TEST(Task, ProgressBeginsTheCountAnew) {
  Task task = ScriptTask("echo x >> starts; test $(wc -l < starts) -ge 7 && touch result; exit 75");
  task.stages[0].progress = [&task] { return Starts(task) / 2; };  // every second start gets on
  EXPECT_EQ(RunOnce(task, {.max_restarts = 1}).state, TaskState::kFinished);
  EXPECT_EQ(Starts(task), 7);
}

TEST(Task, LeavesTheNextStartToTheScheduler) {
  const Task task = ScriptTask("echo x >> starts; exit 75");
  const TaskOptions options{.max_restarts = 1, .scheduled = true};
  for (const int starts : {1, 2}) {
    EXPECT_EQ(RunOnce(task, options).state, TaskState::kInterrupted);
    EXPECT_EQ(Starts(task), starts);
  }
  EXPECT_EQ(RunOnce(task, options).state, TaskState::kFailed);  // the count outlives the process
  EXPECT_EQ(Starts(task), 2);
  EXPECT_EQ(RunOnce(task, options).state, TaskState::kInterrupted);  // and begins anew after a failure
}

TEST(Task, ErrorsOfItsStateAreItsFailure) {
  Task task = ScriptTask("touch result");
  task.stages[0].done = []() -> absl::StatusOr<bool> {
    return WithExitCode(absl::InvalidArgumentError("another run lies here"), ExitCode::kUsage);
  };
  const TaskRecord record = RunOnce(task);
  EXPECT_EQ(record.state, TaskState::kFailed);
  EXPECT_EQ(record.last_exit_code, 64);
  EXPECT_EQ(record.message, "another run lies here");
}

TEST(Task, OneProcessWorksOnIt) {
  const Task task = ScriptTask("echo x >> starts; touch result");
  const auto lock = TaskLock::Take(task.folder);
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(RunOnce(task).state, TaskState::kRunning);
  EXPECT_EQ(Starts(task), 0);
}

TEST(Task, ATrainingElsewhereIsNoFailure) {
  const Task task = ScriptTask("echo x >> starts; echo 'shardit: another job uses this run folder: x' >&2; exit 73");
  const TaskRecord record = RunOnce(task);
  EXPECT_EQ(record.state, TaskState::kRunning);
  EXPECT_EQ(ExitCodeOf(ElementStatus(task, record)), ExitCode::kCannotCreate);
  EXPECT_EQ(Starts(task), 1);
  EXPECT_EQ(ReadTaskRecord(task.folder).state, TaskState::kInterrupted);
}

TEST(Task, AStopReachesTheCommandAndCountsNothing) {
  const Task task = ScriptTask("trap 'exit 75' USR1; echo x >> starts; touch up; while :; do sleep 0.01; done");
  StopRelay relay;
  std::thread stopper([&] {
    WaitForFile(task.folder + "/up");
    kill(getpid(), SIGTERM);
  });
  const TaskRecord record = RunTask(task, {}, relay);
  stopper.join();
  EXPECT_EQ(record.state, TaskState::kInterrupted);
  EXPECT_EQ(record.last_exit_code, 75);
  EXPECT_EQ(record.stalled, 0);
  EXPECT_EQ(RunTask(task, {}, relay).attempts, 1);  // nothing begins after a stop
  EXPECT_EQ(Starts(task), 1);
}

TEST(TaskRecord, DamageAndDeadProcessesAreInterruptions) {
  const std::string folder = NewFolder();
  EXPECT_EQ(ReadTaskRecord(folder).state, TaskState::kMissing);
  for (const std::string text : {"", "{", "[]", "{\"state\": \"odd\"}", "{\"state\": 3}"}) {
    std::ofstream(folder + "/task.json") << text;
    EXPECT_EQ(ReadTaskRecord(folder).state, TaskState::kInterrupted) << text;
    EXPECT_THAT(ReadTaskRecord(folder).message, HasSubstr("damaged"));
  }
  TaskRecord record{.state = TaskState::kRunning, .attempts = 3};
  {
    const auto lock = TaskLock::Take(folder);
    ASSERT_TRUE(WriteTaskRecord(folder, &record).ok());
    EXPECT_EQ(ReadTaskRecord(folder).state, TaskState::kRunning);
  }
  EXPECT_EQ(ReadTaskRecord(folder).state, TaskState::kInterrupted);
  EXPECT_EQ(ReadTaskRecord(folder).attempts, 3);
  std::ofstream(folder + "/task.json") << R"({"state": "failed", "message": "\u001b]0;pwned\u0007"})";
  EXPECT_EQ(ReadTaskRecord(folder).message, " ]0;pwned ");
}

std::vector<Task> ThreeTasks() {
  return {ScriptTask("touch result"), ScriptTask("exit 65"), ScriptTask("touch result")};
}

TEST(LocalQueue, AFailureHoldsUpNothing) {
  for (const int64_t parallel : {1, 2, 5}) {
    const std::vector<Task> tasks = ThreeTasks();
    int ended = 0;
    StopRelay relay;
    const auto records =
        RunLocalQueue(tasks, {.parallel = parallel, .ended = [&](const Task&, const TaskRecord&) { ++ended; }}, relay);
    EXPECT_EQ(ended, 3);
    EXPECT_EQ(records[0].state, TaskState::kFinished);
    EXPECT_EQ(records[1].state, TaskState::kFailed);
    EXPECT_EQ(records[2].state, TaskState::kFinished);
    const absl::Status status = StudyStatus(tasks, records);
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kTasksFailed);
    EXPECT_TRUE(ElementStatus(tasks[0], records[0]).ok());
    EXPECT_EQ(ExitCodeOf(ElementStatus(tasks[1], records[1])), ExitCode::kTasksFailed);
    EXPECT_THAT(std::string(status.message()), StartsWith("1 of 3 tasks failed: task (exit 65)"));
  }
}

TEST(LocalQueue, RunsTasksAtTheSameTimeOnProcessorsOfTheirOwn) {
  // Each waits for the other.
  const std::string meet = NewFolder();
  std::vector<Task> tasks;
  for (const std::string name : {"a", "b"}) {
    const std::string other = name == "a" ? "b" : "a";
    tasks.push_back(ScriptTask("touch '" + meet + "/" + name + "'; while ! test -e '" + meet + "/" + other +
                               "'; do sleep 0.01; done; grep Cpus_allowed_list /proc/self/status > '" + meet +
                               "/cpus_" + name + "'; touch result"));
  }
  StopRelay relay;
  for (const TaskRecord& record : RunLocalQueue(tasks, {.parallel = 2}, relay)) {
    EXPECT_EQ(record.state, TaskState::kFinished);
  }
  if (AllowedCpus().size() < 2) return;  // all there is is shared
  EXPECT_NE(*ReadWholeFile(meet + "/cpus_a", 4096), *ReadWholeFile(meet + "/cpus_b", 4096));
}

TEST(LocalQueue, AStopEndsItWithTheRestOpen) {
  const Task first = ScriptTask("trap 'exit 75' USR1; touch up; while :; do sleep 0.01; done");
  const std::vector<Task> tasks = {first, ScriptTask("touch result")};
  StopRelay relay;
  std::thread stopper([&] {
    WaitForFile(first.folder + "/up");
    kill(getpid(), SIGINT);
  });
  const auto records = RunLocalQueue(tasks, {}, relay);
  stopper.join();
  EXPECT_EQ(records[0].state, TaskState::kInterrupted);
  EXPECT_EQ(records[1].state, TaskState::kMissing);
  EXPECT_EQ(ExitCodeOf(StudyStatus(tasks, records)), ExitCode::kRequeue);
  EXPECT_EQ(ExitCodeOf(ElementStatus(first, records[0])), ExitCode::kRequeue);
}

TEST(LocalQueue, ASecondInterruptEndsWhatDoesNotListen) {
  const Task task = ScriptTask("trap '' USR1; touch up; while :; do sleep 0.01; done");
  StopRelay relay;
  std::atomic<bool> ended{false};
  std::thread stopper([&] {
    WaitForFile(task.folder + "/up");
    while (!ended) {  // soon after the first they are taken for its echoes
      kill(getpid(), SIGINT);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
  });
  const TaskRecord record = RunTask(task, {}, relay);
  ended = true;
  stopper.join();
  EXPECT_EQ(record.state, TaskState::kInterrupted);
  EXPECT_EQ(record.last_exit_code, 128 + SIGTERM);
}

}  // namespace
}  // namespace shardit
