// Save at one world, load at another, with other axes, ZeRO stages and virtual stages: the state that all ranks hold
// together is the same in every bit, and the next step is the same step. Real checkpoints, ranks as threads.

#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "gtest/gtest.h"
#include "parallel/comm/agree_status.h"
#include "tests/temp_folder.h"
#include "tests/trainer/layout_case.h"
#include "tests/trainer/layout_grid.h"
#include "trainer/train/state_checkpoint.h"

namespace shardit {
namespace {

constexpr int kTrained = 2;  // steps before the save

struct Side {
  LayoutCase save, load;  // of the same world; the designs are the saving side's
};

// Every pair of a saving and a loading world changes an axis, the stage or the virtual stages.
const Side kSides[] = {
    {{.conditioning = Conditioning::kCrossAttention, .micro_batch = 12}, {}},
    {{.conditioning = Conditioning::kAdaLnZero, .tp = 2, .sequence_parallel = true}, {.dp = 2, .zero_stage = 3}},
    {{.conditioning = Conditioning::kInContext, .pp = 3, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 2},
     {.tp = 3, .sequence_parallel = true}},
    {{.conditioning = Conditioning::kAdaLn, .dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 2},
     {.pp = 4, .schedule = ScheduleKind::kZeroBubbleH1}},
    {{.conditioning = Conditioning::kAdaLnZero, .dp = 3, .tp = 2, .zero_stage = 1},
     {.pp = 2, .dp = 3, .zero_stage = 2, .schedule = ScheduleKind::kGpipe}},
    {{.conditioning = Conditioning::kInContext, .pp = 2, .dp = 2, .tp = 2, .sequence_parallel = true, .zero_stage = 3},
     {.pp = 2,
      .dp = 4,
      .zero_stage = 1,
      .schedule = ScheduleKind::kInterleaved,
      .virtual_stages = 3,
      .recompute = RecomputeMode::kFull}},
};

// A run's state at the save, and what its next step makes of it.
struct Point {
  int64_t step = 0, updates = 0, skipped = 0;
  WholeState state, after;
  StepReport report;
  TensorsByName gradients;
};

RankExchange ExchangeOver(Communicator& comm) {
  return {comm.rank(), comm.size(), [&comm](const absl::Status& mine) { return AgreeStatus(comm, mine); },
          [&comm](const std::string& mine) -> absl::StatusOr<std::vector<std::string>> {
            return comm.GatherBytes(mine, 0, {.tag = "slice tables", .control = true});
          }};
}

// Records the state on all ranks, then runs one more step.
void Observe(LayoutRank& rank, bool is_first, std::mutex& mutex, Point& point) {
  {
    const std::lock_guard lock(mutex);
    rank.FinishGather();
    rank.AddState(point.state);
    if (is_first) {
      point.step = rank.state().step;
      point.updates = rank.state().updates;
      point.skipped = rank.state().skipped;
    }
  }
  const StepReport report = rank.Step();
  const std::lock_guard lock(mutex);
  rank.AddGradients(point.gradients);
  rank.FinishGather();
  rank.AddState(point.after);
  if (is_first) point.report = report;
}

Point TrainAndSave(const LayoutCase& layout, const std::string& folder) {
  Point point;
  std::mutex mutex;
  RunThreadWorld(layout.world(), [&](World& world) {
    LayoutRank rank(world, layout);
    for (int s = 0; s < kTrained; ++s) rank.Step();
    rank.state().skipped = 7;  // the counters are not all equal
    const std::unique_ptr<Communicator> comm = world.comm().Split(0, world.rank(), "checkpoint");
    CheckpointWriter writer({.checkpoints = folder, .run_id = "run-1", .attempt = "1"}, ExchangeOver(*comm));
    EXPECT_TRUE(writer.Prepare().ok());
    RunState saved;
    saved.run_id = "run-1";
    saved.layout = {
        .world = layout.world(), .dp = layout.dp, .tp = layout.tp, .pp = layout.pp, .zero_stage = layout.zero_stage};
    saved.step = rank.state().step;
    saved.optimizer_updates = rank.state().updates;
    saved.ema_updates = rank.state().updates;
    saved.skipped_steps = rank.state().skipped;
    const absl::StatusOr<SaveReport> report = writer.Save(saved, StateSlices(rank.state()));
    EXPECT_TRUE(report.ok()) << report.status();
    Observe(rank, world.rank() == 0, mutex, point);
  });
  return point;
}

Point LoadAndStep(const LayoutCase& layout, const std::string& folder) {
  Point point;
  std::mutex mutex;
  RunThreadWorld(layout.world(), [&](World& world) {
    LayoutRank rank(world, layout);
    const absl::StatusOr<CheckpointReader> reader = OpenCheckpointStep(folder, kTrained);
    CHECK(reader.ok()) << reader.status();
    const absl::Status loaded = LoadState(*reader, rank.state());
    CHECK(loaded.ok()) << loaded;
    Observe(rank, world.rank() == 0, mutex, point);
  });
  return point;
}

class ReshardPairTest : public testing::TestWithParam<int> {};

TEST_P(ReshardPairTest, GoesOnAsTheSameRun) {
  const LayoutCase& from = kSides[GetParam()].save;
  const TempFolder temporary;
  const std::string folder = temporary / "run";
  const Point saved = TrainAndSave(from, folder);
  for (const Side& side : kSides) {
    LayoutCase to = side.load;
    to.conditioning = from.conditioning;
    SCOPED_TRACE(absl::StrCat(from.Text(), " -> ", to.Text()));
    const Point loaded = LoadAndStep(to, folder);
    EXPECT_EQ(loaded.state.weights.size(), saved.state.weights.size());
    EXPECT_TRUE(loaded.state.weights == saved.state.weights);
    EXPECT_TRUE(loaded.state.ema == saved.state.ema);
    EXPECT_TRUE(loaded.state.adam_m == saved.state.adam_m);
    EXPECT_TRUE(loaded.state.adam_v == saved.state.adam_v);
    EXPECT_EQ(loaded.step, saved.step);
    EXPECT_EQ(loaded.updates, saved.updates);
    EXPECT_EQ(loaded.skipped, 7);
    EXPECT_NEAR(loaded.report.loss, saved.report.loss, kLayoutTolerance * saved.report.loss);
    EXPECT_NEAR(loaded.report.update.grad_norm, saved.report.update.grad_norm,
                kLayoutTolerance * saved.report.update.grad_norm);
    EXPECT_LE(RelativeDistance(loaded.gradients, saved.gradients), kLayoutTolerance);
    EXPECT_LE(RelativeDistance(loaded.after.weights, saved.after.weights), kLayoutTolerance);
    EXPECT_LE(RelativeDistance(loaded.after.adam_m, saved.after.adam_m), kLayoutTolerance);
    EXPECT_FALSE(loaded.after.weights == saved.state.weights);
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, ReshardPairTest, testing::Range(0, static_cast<int>(std::size(kSides))),
                         [](const auto& info) { return absl::StrCat("From", kSides[info.param].save.world()); });

}  // namespace
}  // namespace shardit
