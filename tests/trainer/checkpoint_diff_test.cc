#include "trainer/checkpoint_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

using namespace checkpoint_testing;  // NOLINT: test vocabulary
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Saves the state of seed 1 as one shard, changed by `spoil`, and opens it.
CheckpointReader SavedWith(const TempFolder& folder, const std::function<void(RunState*, RankSlices*)>& spoil) {
  const auto mine = CutState(1, Cut::kFlat, 0, 1);
  RunState state = TestState(1);
  spoil(&state, mine.get());
  CheckpointWriter writer({folder.path(), state.run_id, "1", {}, &PosixFileSystem()}, SingleRankExchange());
  EXPECT_TRUE(writer.Save(state, mine->slices).ok());
  auto reader = OpenCheckpointStep(folder.path(), state.step);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

float* DataOf(RankSlices* slices, StateGroup group, const std::string& name) {
  for (size_t i = 0; i < slices->slices.size(); ++i) {
    if (slices->slices[i].group == group && slices->slices[i].name == name) return slices->data[i].data();
  }
  return nullptr;
}

TEST(CheckpointDiff, TheSameStateIsEqualWhateverLayoutWroteIt) {
  TempFolder a, b;
  ASSERT_TRUE(SaveStep(a.path(), 1, {.world = 4, .cut = Cut::kFlat}).ok());
  ASSERT_TRUE(SaveStep(b.path(), 1, {.world = 3, .cut = Cut::kLastDim, .run_id = "other"}).ok());
  const auto diff = DiffCheckpoints(*OpenCheckpointStep(a.path(), 1), *OpenCheckpointStep(b.path(), 1));
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_TRUE(diff->equal()) << DescribeDiff(*diff);
  EXPECT_EQ(diff->compared, 20);
  EXPECT_THAT(diff->notes, ElementsAre("run_id: run-1 -> other"));
  EXPECT_THAT(DescribeDiff(*diff), HasSubstr("20 of 20 tensors are bitwise equal; the checkpoints are equal"));
}

TEST(CheckpointDiff, EveryScalarThatDiffersIsNamed) {
  TempFolder a, b;
  const CheckpointReader reader_a = SavedWith(a, [](RunState*, RankSlices*) {});
  const CheckpointReader reader_b = SavedWith(b, [](RunState* state, RankSlices*) {
    state->step = 2, state->images_seen += 1, state->ema_updates += 1, state->optimizer_updates += 1;
    state->skipped_steps += 1, state->skipped_in_a_row += 1, state->seed += 1, state->rng_keys[0].second += 1;
    state->losses = {3, 0.5, 0.25};
    state->layout.tp = 1, state->program_version = "0.2.0";
  });
  const auto diff = DiffCheckpoints(reader_a, reader_b);
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_FALSE(diff->equal());
  EXPECT_THAT(diff->tensors, IsEmpty());
  EXPECT_THAT(diff->scalars,
              ElementsAre("step: 1 -> 2", "images_seen: 256 -> 257", "ema_updates: 0 -> 1", "optimizer_updates: 0 -> 1",
                          "skipped_steps: 2 -> 3", "skipped_in_a_row: 1 -> 2", "losses.observed: 0 -> 3",
                          "losses.mean: 0 -> 0.5", "losses.variance: 0 -> 0.25", HasSubstr("seed: 1836475"),
                          "rng_keys: noise=17 order=18446744073709551615 -> noise=18 order=18446744073709551615"));
  EXPECT_THAT(diff->notes,
              ElementsAre("program_version: 0.1.0 -> 0.2.0", "layout: dp 2 tp 2 pp 1 ZeRO 1 -> dp 2 tp 1 pp 1 ZeRO 1"));
}

TEST(CheckpointDiff, SettingsThatMoveTheNumbersDifferAndOthersAreNoted) {
  const auto resolved = [](const std::string& train) {
    const auto config =
        ParseRunConfig("model { depth: 2 width: 32 heads: 2 patch: 4 side: 8 } " + train, "test", ConfigUse::kModel, 1);
    EXPECT_TRUE(config.ok()) << config.status();
    return config->text;
  };
  TempFolder a, b, c;
  const auto with = [&](const TempFolder& folder, const std::string& train) {
    return SavedWith(folder, [&](RunState* state, RankSlices*) { state->config_text = resolved(train); });
  };
  const CheckpointReader reader_a = with(a, "train { seed: 1 threads: 1 }");
  const CheckpointReader reader_b = with(b, "train { seed: 1 threads: 2 }");
  const CheckpointReader reader_c = with(c, "train { seed: 2 threads: 1 }");
  const auto threads = DiffCheckpoints(reader_a, reader_b), seed = DiffCheckpoints(reader_a, reader_c);
  ASSERT_TRUE(threads.ok() && seed.ok());
  EXPECT_TRUE(threads->equal()) << DescribeDiff(*threads);
  EXPECT_THAT(threads->notes, ElementsAre(HasSubstr("train.threads: 1 -> 2")));
  EXPECT_FALSE(seed->equal());
  EXPECT_THAT(seed->config, ElementsAre(HasSubstr("train.seed: 1 -> 2")));
}

TEST(CheckpointDiff, ElementsAreCountedAndMeasured) {
  TempFolder a, b;
  const CheckpointReader reader_a = SavedWith(a, [](RunState*, RankSlices* slices) {
    DataOf(slices, StateGroup::kModel, "pos_embed")[0] = 0.0f;
    float* weight = DataOf(slices, StateGroup::kEma, "final.weight");
    weight[3] = 2.0f, weight[90] = -4.0f;
    DataOf(slices, StateGroup::kAdamM, "scale")[0] = std::nanf("");
    DataOf(slices, StateGroup::kAdamV, "scale")[0] = std::nanf("");
  });
  const CheckpointReader reader_b = SavedWith(b, [](RunState*, RankSlices* slices) {
    DataOf(slices, StateGroup::kModel, "pos_embed")[0] = -0.0f;
    float* weight = DataOf(slices, StateGroup::kEma, "final.weight");
    weight[3] = 2.5f, weight[90] = -3.0f;
    DataOf(slices, StateGroup::kAdamM, "scale")[0] = std::nanf("");  // the same bits: equal
    DataOf(slices, StateGroup::kAdamV, "scale")[0] = 1.0f;
  });
  const auto diff = DiffCheckpoints(reader_a, reader_b);
  ASSERT_TRUE(diff.ok()) << diff.status();
  ASSERT_EQ(diff->tensors.size(), 3u) << DescribeDiff(*diff);
  EXPECT_EQ(diff->tensors[0].name, "pos_embed");
  EXPECT_EQ(diff->tensors[0].differing, 1);
  EXPECT_EQ(diff->tensors[0].max_abs, 0);
  EXPECT_EQ(diff->tensors[1].name, "final.weight");
  EXPECT_EQ(diff->tensors[1].group, StateGroup::kEma);
  EXPECT_EQ(diff->tensors[1].elements, 91);
  EXPECT_EQ(diff->tensors[1].differing, 2);
  EXPECT_EQ(diff->tensors[1].max_abs, 1.0);
  EXPECT_EQ(diff->tensors[1].max_rel, 0.25);
  EXPECT_EQ(diff->tensors[2].group, StateGroup::kAdamV);
  EXPECT_EQ(diff->tensors[2].max_abs, std::numeric_limits<double>::infinity());
  EXPECT_THAT(DescribeDiff(*diff), HasSubstr("tensor ema/final.weight: 2 of 91 elements differ, max abs 1, "));
}

TEST(CheckpointDiff, MissingExtraAndReshapedTensorsAreNamed) {
  TempFolder a, b;
  const CheckpointReader reader_a = SavedWith(a, [](RunState*, RankSlices*) {});
  const CheckpointReader reader_b = SavedWith(b, [](RunState*, RankSlices* slices) {
    for (SliceRef& slice : slices->slices) {
      if (slice.group == StateGroup::kEma && slice.name == "scale") slice.name = "shift";
      if (slice.group == StateGroup::kModel && slice.name == "final.weight") {
        slice.shape = {7, 13}, slice.box = WholeBox({7, 13});
      }
    }
  });
  const auto diff = DiffCheckpoints(reader_a, reader_b);
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_THAT(diff->only_in_a, ElementsAre("ema/scale"));
  EXPECT_THAT(diff->only_in_b, ElementsAre("ema/shift"));
  EXPECT_THAT(diff->shapes, ElementsAre("model/final.weight: [13,7] -> [7,13]"));
  EXPECT_EQ(diff->compared, 18);
  EXPECT_FALSE(diff->equal());
}

// Tensors longer than what is held at a time, cut across it on one side.
TEST(CheckpointDiff, LongTensorsAreComparedPieceByPiece) {
  const std::vector<NamedShape> model = {{"w", {1201, 1000}}};
  TempFolder a, b;
  const auto save = [&](const TempFolder& folder, Cut cut, int64_t world, bool spoil) {
    RunRanks(world, [&](const RankExchange& exchange) {
      const auto mine = CutState(1, cut, exchange.rank, world, model);
      if (spoil && exchange.rank == world - 1) mine->data[0].back() += 1.0f;
      CheckpointWriter writer({folder.path(), "run-1", "1", {}, &PosixFileSystem()}, exchange);
      EXPECT_TRUE(writer.Save(TestState(1), mine->slices).ok());
    });
  };
  save(a, Cut::kLastDim, 3, false);
  save(b, Cut::kFlat, 2, true);
  const auto diff = DiffCheckpoints(*OpenCheckpointStep(a.path(), 1), *OpenCheckpointStep(b.path(), 1));
  ASSERT_TRUE(diff.ok()) << diff.status();
  ASSERT_EQ(diff->tensors.size(), 1u);
  EXPECT_EQ(diff->tensors[0].differing, 1);
  EXPECT_EQ(diff->tensors[0].elements, 1201000);
}

}  // namespace
}  // namespace shardit
