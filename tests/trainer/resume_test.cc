// What a run resumes from, on one rank and on two that hold a half each: what it may step back over, when it may begin
// anew, and what a start from a named step leaves behind. Real checkpoints, ranks as threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "parallel/comm/agree_status.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "tests/trainer/layout_case.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/state_checkpoint.h"

namespace shardit {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ResolvedConfig Config() {
  return ParseRunConfig("model { depth: 2 width: 24 heads: 2 patch: 4 side: 8 } data { path: \"x\" }", "test",
                        ConfigUse::kTrain, 1)
      .value();
}

LayoutCase CaseOf(int ranks) { return {.dp = ranks, .zero_stage = ranks > 1 ? 1 : 0, .depth = 1, .heads = 2}; }

// Every element of the state is the step's number.
void FillState(TrainState& state, int64_t step) {
  for (const Tensor& values : {state.weights(), state.ema(), state.adam_m(), state.adam_v()}) {
    std::fill_n(values.data(), values.elements(), static_cast<float>(step));
  }
  state.step = step;
  state.updates = step;
}

class ResumeTest : public testing::TestWithParam<int> {
 protected:
  void Save(const std::vector<int64_t>& steps) {
    RunThreadWorld(GetParam(), [&](World& world) {
      LayoutRank rank(world, CaseOf(GetParam()));
      Communicator& comm = world.comm();
      RankExchange exchange = {comm.rank(), comm.size(),
                               [&comm](const absl::Status& mine) { return AgreeStatus(comm, mine); },
                               [&comm](const std::string& mine) -> absl::StatusOr<std::vector<std::string>> {
                                 return comm.GatherBytes(mine, 0, {.tag = "slice tables", .control = true});
                               }};
      CheckpointWriter writer({.checkpoints = folder_.path(), .run_id = "run-1", .attempt = "1"}, exchange);
      for (const int64_t step : steps) {
        FillState(rank.state(), step);
        RunState saved;
        saved.run_id = "run-1";
        saved.config_text = Config().text;
        saved.step = step;
        saved.optimizer_updates = step;
        EXPECT_TRUE(writer.Save(saved, StateSlices(rank.state())).ok());
      }
    });
  }

  // The last byte of the last rank's shard: of a second moment, which is loaded last.
  void Damage(int64_t step) {
    const std::string shard = ShardFileName(GetParam() - 1, GetParam());
    const std::string path = folder_ / absl::StrCat(StepFolderName(step), "/", shard);
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(-1, std::ios::end);
    const char byte = static_cast<char>(stream.get());
    stream.seekp(-1, std::ios::end);
    stream.put(static_cast<char>(byte ^ 1));
  }

  // The step that all ranks resumed at, with its state whole; -1: a fresh start, with the state as it was.
  absl::StatusOr<int64_t> Resume(const std::string& resume, std::optional<int64_t> below = std::nullopt) {
    std::vector<absl::StatusOr<int64_t>> outcomes(static_cast<size_t>(GetParam()));
    RunThreadWorld(GetParam(), [&](World& world) {
      LayoutRank rank(world, CaseOf(GetParam()));
      constexpr int64_t kFresh = -1;
      FillState(rank.state(), kFresh);
      const auto resumed = ResumeState(world.comm(), folder_.path(), resume, below, Config(), rank.state());
      absl::StatusOr<int64_t>& outcome = outcomes[static_cast<size_t>(world.rank())];
      if (!resumed.ok()) {
        outcome = resumed.status();
        return;
      }
      outcome = resumed->has_value() ? (*resumed)->state.step : kFresh;
      EXPECT_EQ(rank.state().step, *outcome);
      for (const Tensor& values : {rank.state().weights(), rank.state().ema(), rank.state().adam_m()}) {
        EXPECT_EQ(values.data()[0], static_cast<float>(*outcome));
      }
      if (world.rank() == 0 && resumed->has_value()) last_ = **resumed;
    });
    for (const auto& outcome : outcomes) {
      EXPECT_EQ(outcome, outcomes[0]);
      EXPECT_EQ(ExitCodeOf(outcome.status()), ExitCodeOf(outcomes[0].status()));
    }
    return outcomes[0];
  }

  TempFolder folder_;
  Resumed last_;  // rank 0's
};
INSTANTIATE_TEST_SUITE_P(Ranks, ResumeTest, testing::Values(1, 2), testing::PrintToStringParamName());

TEST_P(ResumeTest, StepsBackOverDamage) {
  EXPECT_EQ(Resume("auto").value(), -1);
  EXPECT_EQ(Resume("never").value(), -1);
  Save({4, 8, 12});
  EXPECT_EQ(Resume("auto").value(), 12);
  EXPECT_EQ(Resume("auto", 12).value(), 8);
  EXPECT_EQ(Resume("auto", 4).value(), -1);
  Damage(12);
  std::filesystem::remove(folder_ / "0000008/MANIFEST");
  EXPECT_EQ(Resume("auto").value(), 4);
  EXPECT_EQ(last_.skipped.size(), 2u);
  EXPECT_TRUE(last_.set_aside.empty());
}

// Never a fresh start, and none on half of the state that was read before the damage was met.
TEST_P(ResumeTest, OnlyBadCheckpointsAreAnError) {
  Save({4, 8});
  Damage(4);
  Damage(8);
  const absl::Status status = Resume("auto").status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("none of the 2 checkpoint"), HasSubstr("0000004"), HasSubstr("0000008"),
                    HasSubstr("CRC32C"), HasSubstr("--resume never and another --out")));
  for (const char* name : {"0000004", "0000008"}) {
    std::filesystem::resize_file(folder_ / absl::StrCat(name, "/MANIFEST"), 20);
  }
  EXPECT_EQ(Resume("auto").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Resume("auto", 5).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Resume("auto", 4).value(), -1);  // none is before it, good or bad
}

TEST_P(ResumeTest, ANamedStepLeavesNewerOnesBehind) {
  Save({4, 8, 12});
  Damage(12);
  EXPECT_EQ(Resume("4").value(), 4);
  EXPECT_EQ(last_.set_aside, (std::vector<std::string>{folder_ / "0000008.aside-1", folder_ / "0000012.aside-1"}));
  EXPECT_EQ(Resume("auto").value(), 4);
  EXPECT_EQ(Resume("8").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Resume(folder_ / "0000008.aside-1").value(), 8);
  EXPECT_TRUE(last_.set_aside.empty());
  Damage(4);
  EXPECT_EQ(Resume("4").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ExitCodeOf(Resume("never").status()), ExitCode::kUsage);
}

}  // namespace
}  // namespace shardit
