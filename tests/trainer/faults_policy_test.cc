// The parts of trainer/faults that are functions of their arguments: planned faults, the hang deadline, the judgement
// over hang dumps, the numerics policy and the count of restarts.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/faults/beacon.h"
#include "trainer/faults/fault_point.h"
#include "trainer/faults/hang_deadline.h"
#include "trainer/faults/hang_report.h"
#include "trainer/faults/numerics_policy.h"
#include "trainer/faults/restart_guard.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FaultPlanTest, StrikesOnceAtItsRankAndStep) {
  absl::StatusOr<FaultPlan> plan = FaultPlan::Parse("poison:gradient:rank1:step3,flip:parameter:rank1:step4", 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<float> values(5, 1.0f);
  const Tensor tensor = Tensor::Borrow(values.data(), {5});
  EXPECT_FALSE(plan->PoisonGradient(2, tensor));
  EXPECT_TRUE(plan->PoisonGradient(3, tensor));
  EXPECT_TRUE(std::isnan(values[2]));
  values[2] = 1.0f;
  EXPECT_FALSE(plan->PoisonGradient(3, tensor));
  EXPECT_TRUE(plan->FlipParameter(4, tensor));
  EXPECT_NE(values[0], 1.0f);
  EXPECT_FALSE(FaultPlan::Parse("poison:gradient:rank1:step3", 0)->PoisonGradient(3, tensor));
}

TEST(FaultPlanTest, SlowsEveryStepFromItsOwnOn) {
  absl::StatusOr<FaultPlan> plan = FaultPlan::Parse("slow:update:rank1:step3", 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (const int64_t step : {3, 4}) {
    const auto begin = std::chrono::steady_clock::now();
    plan->Strike("update", step);
    EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(20)) << step;
  }
  EXPECT_FALSE(plan->empty());
}

TEST(FaultPlanTest, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"stop", "stop:forward:1:3", "halt:forward:rank1:step3", "poison:weights:rank0:step1",
                           "stop:forward:rank1:stepx", "stop:forward:rank1:step3:more"}) {
    EXPECT_FALSE(FaultPlan::Parse(text, 0).ok()) << text;
  }
}

TEST(BeaconTest, TellsAFirstVisitFromLaterOnes) {
  Beacon beacon;
  beacon.Enter(Phase::kSave, 4);
  EXPECT_EQ(beacon.Read().phase, Phase::kSave);
  EXPECT_EQ(beacon.Read().step, 4);
  EXPECT_TRUE(beacon.Read().first_visit);
  const uint64_t entered = beacon.Read().entered;
  beacon.Enter(Phase::kForward, 5);
  beacon.Enter(Phase::kSave, 5);
  EXPECT_FALSE(beacon.Read().first_visit);
  EXPECT_EQ(beacon.Read().entered, entered + 2);
}

TEST(HangDeadlineTest, IsLearnedFromStepsAndPauses) {
  HangDeadline deadline(0.0);
  EXPECT_EQ(deadline.Seconds(Phase::kForward, false), HangDeadline::kUnknown);
  for (int i = 0; i < 3; ++i) deadline.StepTook(0.1);
  EXPECT_EQ(deadline.Seconds(Phase::kForward, false), HangDeadline::kShortest);
  EXPECT_EQ(deadline.Seconds(Phase::kSave, true), HangDeadline::kUnknown);
  deadline.PauseEnded(Phase::kValidate, 25.0);
  EXPECT_EQ(deadline.Seconds(Phase::kValidate, false), 100.0);
  // One fsync may last for minutes and shows nothing meanwhile.
  EXPECT_EQ(deadline.Seconds(Phase::kSave, false), HangDeadline::kUnknown);
  deadline.PauseEnded(Phase::kSave, 200.0);
  EXPECT_EQ(deadline.Seconds(Phase::kSave, false), 800.0);
  EXPECT_EQ(deadline.Seconds(Phase::kForward, false), HangDeadline::kShortest);
  for (int i = 0; i < 31; ++i) deadline.StepTook(i % 5 == 0 ? 1000.0 : 8.0);  // the median, not the mean
  EXPECT_EQ(deadline.Seconds(Phase::kForward, false), 80.0);
  EXPECT_EQ(HangDeadline(3.0).Seconds(Phase::kSave, true), 3.0);
}

CollectiveRecord Record(const char* comm, int64_t sequence, bool done,
                        CollectiveKind kind = CollectiveKind::kAllReduce) {
  CollectiveRecord record;
  record.sequence = sequence;
  record.kind = kind;
  record.comm = comm;
  record.site = "site";
  record.peer = kind == CollectiveKind::kRecv ? 0 : -1;
  if (done) record.end = CollectiveRecord::Time::clock::now();
  return record;
}

RankEvidence Evidence(Phase phase, std::vector<CollectiveRecord> records, std::string coordinates = "") {
  RankEvidence evidence{.place = {.host = "a", .pid = 7, .coordinates = std::move(coordinates)}};
  evidence.beat = Beat{phase, 3};
  evidence.dump = HangDump{.beat = {phase, 3}, .idle_seconds = 4.0, .comms = CommStates(records)};
  return evidence;
}

TEST(JudgeTest, ARankThatDoesNotAnswerIsOdd) {
  std::vector<RankEvidence> ranks(3, Evidence(Phase::kCollective, {Record("dp", 5, false)}));
  ranks[1].dump.reset();
  ranks[1].place.host = "node7";
  ranks[2].dump->neighbours = "0=S 1=T 2=S";
  const Verdict verdict = Judge(ranks);
  EXPECT_THAT(verdict.odd, ElementsAre(1));
  for (const char* part : {"rank 1", "node7", "does not answer", "stopped by a signal", "collective of step 3"}) {
    EXPECT_THAT(verdict.line, HasSubstr(part));
  }
}

TEST(JudgeTest, ARankBehindIsOddAndABusyOneAmongThemMoreSo) {
  const RankEvidence waits = Evidence(Phase::kCollective, {Record("dp", 5, false)});
  const RankEvidence behind = Evidence(Phase::kBackward, {Record("dp", 4, false)});
  const RankEvidence busy = Evidence(Phase::kForward, {Record("dp", 3, true)});
  EXPECT_THAT(Judge(std::vector{waits, behind, waits}).odd, ElementsAre(1));
  EXPECT_THAT(Judge(std::vector{waits, behind, busy}).odd, ElementsAre(2));
  EXPECT_THAT(Judge(std::vector{waits, behind, busy}).line, HasSubstr("forward of step 3"));
}

TEST(JudgeTest, EquallyFarRanksThatWaitForNobodyAreOdd) {
  // A pipeline: the later stage waits for tokens, no collective tells them apart.
  const RankEvidence stage = Evidence(Phase::kForward, {Record("control", 9, true)});
  const RankEvidence next =
      Evidence(Phase::kForward, {Record("control", 9, true), Record("pp", 0, false, CollectiveKind::kRecv)});
  EXPECT_THAT(Judge(std::vector{stage, next}).odd, ElementsAre(0));
  const Verdict none = Judge(std::vector{next, next});
  EXPECT_TRUE(none.odd.empty());
  EXPECT_THAT(none.line, HasSubstr("network"));
}

TEST(JudgeTest, AxesAreComparedWithinTheirGroups) {
  // Two data axes of a pipeline have different numbers of buckets.
  const std::vector<RankEvidence> ranks = {Evidence(Phase::kCollective, {Record("dp", 9, false)}, "pp=0 dp=0 tp=0"),
                                           Evidence(Phase::kCollective, {Record("dp", 8, false)}, "pp=0 dp=1 tp=0"),
                                           Evidence(Phase::kCollective, {Record("dp", 2, false)}, "pp=1 dp=0 tp=0"),
                                           Evidence(Phase::kCollective, {Record("dp", 2, false)}, "pp=1 dp=1 tp=0")};
  EXPECT_THAT(Judge(ranks).odd, ElementsAre(1));
}

TEST(HangDumpTest, ReadsBackWhatItWrote) {
  HangDump dump = *Evidence(Phase::kSave, {Record("world", 1, true), Record("tp", 2, false)}).dump;
  dump.operations = "linear attention";
  dump.collectives = "#1\n#2\n";
  dump.neighbours = "0=R";
  const std::optional<HangDump> read = ParseDump(FormatDump(dump));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(FormatDump(*read), FormatDump(dump));
  EXPECT_EQ(read->beat.phase, Phase::kSave);
  EXPECT_EQ(read->comms.size(), 2u);
  EXPECT_TRUE(read->waits());
  EXPECT_FALSE(ParseDump(FormatDump(dump).substr(0, 40)).has_value());
  EXPECT_FALSE(ParseBeat("forward of step").has_value());
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

NumericsVerdict Fail(NumericsPolicy& policy, int64_t first, int64_t count) {
  NumericsVerdict verdict = NumericsVerdict::kContinue;
  for (int64_t step = first; step < first + count; ++step) verdict = policy.Observe(step, kNan, true);
  return verdict;
}

TEST(NumericsPolicyTest, TenInARowRollBackOnceThenStop) {
  NumericsPolicy policy(0.0);
  EXPECT_EQ(Fail(policy, 1, 9), NumericsVerdict::kContinue);
  EXPECT_EQ(policy.Observe(10, 1.0, false), NumericsVerdict::kContinue);
  EXPECT_EQ(Fail(policy, 11, 9), NumericsVerdict::kContinue);
  EXPECT_EQ(Fail(policy, 20, 1), NumericsVerdict::kRollBack);
  policy.Restore({});
  EXPECT_EQ(Fail(policy, 11, 9), NumericsVerdict::kContinue);
  EXPECT_EQ(Fail(policy, 20, 1), NumericsVerdict::kStop);
}

TEST(NumericsPolicyTest, ProgressEarnsAnotherRollBack) {
  NumericsPolicy policy(0.0);
  EXPECT_EQ(Fail(policy, 11, 10), NumericsVerdict::kRollBack);
  policy.Restore({});
  for (int64_t step = 10; step <= 30; ++step) policy.Observe(step, 1.0, false);
  EXPECT_EQ(Fail(policy, 31, 10), NumericsVerdict::kRollBack);
}

TEST(NumericsPolicyTest, ARunResumedAmidstFailuresGoesOnCounting) {
  NumericsPolicy policy(0.0, {.skipped_in_a_row = 8});
  EXPECT_EQ(Fail(policy, 21, 2), NumericsVerdict::kRollBack);
}

TEST(NumericsPolicyTest, SpikesAreOutliersAboveTheMean) {
  NumericsPolicy policy(4.0), off(0.0);
  for (int64_t step = 1; step <= 200; ++step) {
    const double loss = 1.0 + 0.1 * std::sin(static_cast<double>(step));
    EXPECT_EQ(policy.IsSpike(100.0), step > 100) << step;  // too few steps to judge by before
    policy.Observe(step, loss, false);
    off.Observe(step, loss, false);
  }
  EXPECT_FALSE(policy.IsSpike(1.2));
  EXPECT_TRUE(policy.IsSpike(2.0));
  EXPECT_FALSE(policy.IsSpike(1e-9));
  EXPECT_FALSE(off.IsSpike(1e9));
  // Skipped steps teach nothing; the state carries over.
  const NumericsState before = policy.state();
  policy.Observe(201, 1e6, true);
  EXPECT_EQ(policy.state().mean, before.mean);
  EXPECT_TRUE(NumericsPolicy(4.0, before).IsSpike(2.0));
}

TEST(RestartGuardTest, ThreeStalledRestartsOfTheSchedulerAreLetRun) {
  const TempFolder folder;
  const RestartOptions by_hand, scheduled{.limit = 3, .by_scheduler = true};
  ASSERT_TRUE(CountStart(folder.path(), 0, by_hand).ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(CountStart(folder.path(), 0, scheduled).ok()) << i;
  const absl::Status refused = CountStart(folder.path(), 0, scheduled);
  EXPECT_EQ(ExitCodeOf(refused), ExitCode::kDoNotRequeue) << refused;
  EXPECT_EQ(ExitCodeOf(CountStart(folder.path(), 0, scheduled)), ExitCode::kDoNotRequeue);
  // A new checkpoint, or a person, begins the count anew.
  EXPECT_TRUE(CountStart(folder.path(), 5, scheduled).ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(CountStart(folder.path(), 5, scheduled).ok()) << i;
  EXPECT_FALSE(CountStart(folder.path(), 5, scheduled).ok());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(CountStart(folder.path(), 5, by_hand).ok()) << i;
  EXPECT_TRUE(CountStart(folder.path(), 5, scheduled).ok());
}

TEST(RestartGuardTest, TheEnvironmentOrTheFlagSayWhoRestarts) {
  unsetenv("SLURM_RESTART_COUNT");
  EXPECT_FALSE(RestartOptionsFromEnvironment(0).by_scheduler);
  EXPECT_TRUE(RestartOptionsFromEnvironment(5).by_scheduler);
  EXPECT_EQ(RestartOptionsFromEnvironment(5).limit, 5);
  setenv("SLURM_RESTART_COUNT", "0", 1);
  EXPECT_FALSE(RestartOptionsFromEnvironment(0).by_scheduler);
  setenv("SLURM_RESTART_COUNT", "2", 1);
  EXPECT_TRUE(RestartOptionsFromEnvironment(0).by_scheduler);
  unsetenv("SLURM_RESTART_COUNT");
}

}  // namespace
}  // namespace shardit
