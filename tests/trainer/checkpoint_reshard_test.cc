#include "trainer/checkpoint_reshard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "core/base/math.h"
#include "model/dit.h"
#include "parallel/tensor/plan.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/checkpoint_export.h"
#include "trainer/train/sharding.h"

namespace shardit {
namespace {

using namespace checkpoint_testing;  // NOLINT: test vocabulary
using testing::HasSubstr;

ShardPlan PlanOfCut(Cut cut, int64_t world, const std::vector<NamedShape>& model = TestModel()) {
  ShardPlan plan(static_cast<size_t>(world));
  for (int64_t rank = 0; rank < world; ++rank) {
    const auto cut_state = CutState(0, cut, rank, world, model);
    for (const SliceRef& slice : cut_state->slices) {
      plan[static_cast<size_t>(rank)].push_back({slice.group, slice.name, slice.box});
    }
  }
  return plan;
}

TEST(Reshard, AnyCutToAnyCutKeepsEveryBit) {
  for (const Cut from : {Cut::kFlat, Cut::kLastDim}) {
    TempFolder source;
    ASSERT_TRUE(SaveStep(source.path(), 400, {.world = 3, .cut = from}).ok());
    const auto reader = OpenCheckpointStep(source.path(), 400);
    for (const Cut to : {Cut::kFlat, Cut::kFirstDim, Cut::kLastDim}) {
      for (const int64_t world : {1, 2, 5}) {
        TempFolder out;
        const auto report = ReshardCheckpoint(*reader, PlanOfCut(to, world), {world, world, 1, 1, 3}, out / "deep/er");
        ASSERT_TRUE(report.ok()) << report.status();
        EXPECT_EQ(report->folder, out / "deep/er/0000400");
        EXPECT_TRUE(report->warnings.empty());
        const auto made = OpenCheckpointStep(out / "deep/er", 400);
        ASSERT_TRUE(made.ok()) << made.status();
        EXPECT_TRUE(HoldsStep(*made, 400));
        EXPECT_TRUE(made->Verify().empty());
        EXPECT_EQ(static_cast<int64_t>(made->manifest().shards.size()), world);
        EXPECT_EQ(made->state().layout.world, world);
        EXPECT_EQ(made->state().layout.zero_stage, 3);
        EXPECT_EQ(made->state().run_id, "run-1");
        EXPECT_EQ(made->state().seed, TestState(400).seed);
        EXPECT_EQ(made->state().rng_keys, TestState(400).rng_keys);
        EXPECT_EQ(made->state().config_text, TestState(400).config_text);
        EXPECT_EQ(ListFolder(out / "deep/er")->size(), 2u);  // the step and `latest`
      }
    }
  }
}

TEST(Reshard, RefusesWhatItWouldHarmOrLose) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 400, {.world = 2}).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 400);
  const RunLayout layout{2, 2, 1, 1, 0};
  const auto there = ReshardCheckpoint(*reader, PlanOfCut(Cut::kFlat, 2), layout, folder.path());
  EXPECT_EQ(there.status().code(), absl::StatusCode::kAlreadyExists) << there.status();

  ShardPlan lacking = PlanOfCut(Cut::kFlat, 1);
  lacking[0].erase(
      std::remove_if(lacking[0].begin(), lacking[0].end(), [](const PlannedSlice& s) { return s.name == "scale"; }),
      lacking[0].end());
  const auto lost = ReshardCheckpoint(*reader, lacking, layout, folder / "out");
  EXPECT_THAT(std::string(lost.status().message()), HasSubstr("holds 'model/scale'"));
  ShardPlan torn = PlanOfCut(Cut::kFlat, 2);
  torn[1].pop_back();
  EXPECT_THAT(std::string(ReshardCheckpoint(*reader, torn, layout, folder / "out").status().message()),
              HasSubstr("hole"));
  ShardPlan unknown = PlanOfCut(Cut::kFlat, 1);
  unknown[0].push_back({StateGroup::kModel, "other", WholeBox({2})});
  EXPECT_THAT(std::string(ReshardCheckpoint(*reader, unknown, layout, folder / "out").status().message()),
              HasSubstr("has no 'model/other'"));

  // A damaged source is named, and nothing is committed or left.
  const std::string shard = folder / "0000400/shard-00001-of-00002.safetensors";
  std::fstream stream(shard, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(-3, std::ios::end);
  stream.put('\x55');
  stream.close();
  const auto damaged = ReshardCheckpoint(*reader, PlanOfCut(Cut::kFirstDim, 3), layout, folder / "out");
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss) << damaged.status();
  EXPECT_THAT(std::string(damaged.status().message()), HasSubstr("shard-00001-of-00002.safetensors"));
  EXPECT_TRUE(ListFolder(folder / "out")->empty());
}

TEST(Reshard, AFullDiskLeavesNothing) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 400, {.world = 2}).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 400);
  FaultFileSystem fs;
  fs.bytes_left = 12000;
  const ShardPlan plan = PlanOfCut(Cut::kFirstDim, 3);
  const auto full = ReshardCheckpoint(*reader, plan, {3, 3, 1, 1, 0}, folder / "out", fs);
  EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted) << full.status();
  EXPECT_TRUE(ListFolder(folder / "out")->empty());
  fs.bytes_left = INT64_MAX;
  EXPECT_TRUE(ReshardCheckpoint(*reader, plan, {3, 3, 1, 1, 0}, folder / "out", fs).ok());
}

DitConfig SmallModel() {
  DitConfig config;
  config.depth = 5, config.width = 24, config.heads = 4, config.patch = 4, config.side = 8, config.classes = 3;
  return config;
}

const RunLayout kLayouts[] = {{1, 1, 1, 1, 0}, {3, 3, 1, 1, 1},  {2, 1, 2, 1, 0}, {2, 1, 1, 2, 0},
                              {8, 2, 2, 2, 3}, {20, 1, 4, 5, 0}, {7, 7, 1, 1, 2}};

// The configuration that lies beside weights may name a model of any size.
TEST(CheckModelFits, ComparesTheModelWithWhatIsStored) {
  const TempFolder folder;
  std::vector<NamedShape> shapes;
  const Dit model(SmallModel());
  for (const auto& parameter : model.parameters().all()) {
    shapes.push_back({parameter->name, {parameter->shape.begin(), parameter->shape.end()}});
  }
  ASSERT_TRUE(SaveStep(folder.path(), 1, {.world = 2, .model = shapes}).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 1);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(CheckModelFits(SmallModel(), *reader, StateGroup::kEma).ok());
  DitConfig larger = SmallModel();
  larger.classes += 1;
  const absl::Status refused = CheckModelFits(larger, *reader, StateGroup::kModel);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the model of its configuration has"));
  // No weight tells how many places the position table has.
  DitConfig wide = SmallModel();
  wide.patch = 1, wide.side = 4096, wide.channels = 1;
  EXPECT_THAT(std::string(CheckModelFits(wide, *reader, StateGroup::kModel).message()), HasSubstr("position table"));
}

// The smallest checkpoints of the largest model: gigabytes would be taken before a tensor is missed.
TEST(CheckModelFits, IsAskedBeforeAModelIsMade) {
  const TempFolder folder;
  SaveOptions options{.world = 1};
  options.config_text = "model { depth: 1 width: 4096 heads: 16 patch: 1 channels: 4 side: 4096 }";
  ASSERT_TRUE(SaveStep(folder.path(), 1, options).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 1);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const absl::Status exported = ExportWeights(PosixFileSystem(), *reader, StateGroup::kModel, folder / "x.safetensors");
  EXPECT_THAT(std::string(exported.message()), HasSubstr("weights, the model of its configuration has"));
  const auto cut = ReshardForLayout(*reader, {1, 1, 1, 1, 0}, folder / "out");
  EXPECT_THAT(std::string(cut.status().message()), HasSubstr("weights, the model of its configuration has"));
}

TEST(PlanShards, CoversEveryTensorOnceInEveryLayout) {
  for (const Conditioning design :
       {Conditioning::kAdaLnZero, Conditioning::kAdaLn, Conditioning::kCrossAttention, Conditioning::kInContext}) {
    DitConfig config = SmallModel();
    config.conditioning = design;
    const Dit model(config);
    for (const RunLayout& layout : kLayouts) {
      const auto plan = PlanShards(config, {}, layout);
      ASSERT_TRUE(plan.ok()) << plan.status();
      ASSERT_EQ(static_cast<int64_t>(plan->size()), layout.world);
      std::map<std::pair<StateGroup, std::string>, std::vector<Box>> boxes;
      for (const auto& shard : *plan) {
        for (const PlannedSlice& slice : shard) boxes[{slice.group, slice.name}].push_back(slice.box);
      }
      EXPECT_EQ(boxes.size(), 4 * model.parameters().size());
      for (const auto& [key, list] : boxes) {
        const Shape& shape = model.parameters().Find(key.second)->shape;
        ASSERT_TRUE(CheckTiling({shape.begin(), shape.end()}, list).ok()) << key.second;
      }
    }
  }
}

// A rank reads its own stage and tensor rank's shards and, for what the tensor axis does not cut, tensor rank 0's.
TEST(PlanShards, ARankOfTheLayoutReadsFewFiles) {
  const Dit model(SmallModel());
  const auto plan = PlanShards(SmallModel(), {}, {8, 2, 2, 2, 0});
  ASSERT_TRUE(plan.ok());
  const std::vector<UnitRange> stages = CutStages(SmallModel(), 2);
  for (int pp = 0; pp < 2; ++pp) {
    for (int tp = 0; tp < 2; ++tp) {
      const std::set<size_t> allowed = {static_cast<size_t>(pp * 4), static_cast<size_t>(pp * 4 + 2),
                                        static_cast<size_t>(pp * 4 + tp), static_cast<size_t>(pp * 4 + 2 + tp)};
      std::set<size_t> read;
      for (const auto& parameter : model.parameters().all()) {
        if (parameter->unit < stages[pp].begin || parameter->unit >= stages[pp].end) continue;
        for (const Box& wanted : LocalBoxes(*parameter, {tp, 2})) {
          for (size_t shard = 0; shard < plan->size(); ++shard) {
            for (const PlannedSlice& slice : (*plan)[shard]) {
              if (slice.name == parameter->name && Intersect(slice.box, wanted)) read.insert(shard);
            }
          }
        }
      }
      EXPECT_EQ(read, allowed) << pp << tp;
    }
  }
}

TEST(PlanShards, RefusesLayoutsThatTheModelCannotHave) {
  EXPECT_THAT(std::string(PlanShards(SmallModel(), {}, {6, 1, 1, 6, 0}).status().message()),
              HasSubstr("pp 6 x virtual_stages 1 needs as many blocks, the model has 5"));
  EXPECT_THAT(std::string(PlanShards(SmallModel(), {}, {3, 1, 3, 1, 0}).status().message()), HasSubstr("tp 3"));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// The most physical memory this process has held since the last reset, KiB.
int64_t PeakKib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6));
  }
  return -1;
}

// Tensors of 32 MiB, cut into columns at the source, so that every piece of the target comes from all of its shards.
TEST(Reshard, MemoryIsBoundedWhateverTheTensorsSize) {
  TempFolder folder;
  const std::vector<NamedShape> model = {{"w", {1 << 12, 1 << 11}}};
  RunRanks(2, [&](const RankExchange& exchange) {
    const auto mine = CutState(1, Cut::kLastDim, exchange.rank, 2, model);
    CheckpointWriter writer({folder.path(), "run-1", "1", {}, &PosixFileSystem()}, exchange);
    EXPECT_TRUE(writer.Save(TestState(1), mine->slices).ok());
  });
  int results[2];
  ASSERT_EQ(pipe(results), 0);
  const pid_t child = fork();
  if (child == 0) {
    const ShardPlan plan = {{{StateGroup::kModel, "w", WholeBox({1 << 12, 1 << 11})},
                             {StateGroup::kEma, "w", WholeBox({1 << 12, 1 << 11})}},
                            {{StateGroup::kAdamM, "w", WholeBox({1 << 12, 1 << 11})},
                             {StateGroup::kAdamV, "w", WholeBox({1 << 12, 1 << 11})}}};
    const auto reader = OpenCheckpointStep(folder.path(), 1);
    std::ofstream("/proc/self/clear_refs") << "5";
    const int64_t before = PeakKib();
    const bool made = ReshardCheckpoint(*reader, plan, {2, 2, 1, 1, 0}, folder / "out").ok();
    const int64_t grown = made ? PeakKib() - before : -1;
    _exit(write(results[1], &grown, sizeof(grown)) == sizeof(grown) ? 0 : 1);
  }
  int64_t grown = -1;
  ASSERT_EQ(read(results[0], &grown, sizeof(grown)), static_cast<ssize_t>(sizeof(grown)));
  int status = 0;
  waitpid(child, &status, 0);
  // 16 MiB staged, 1 MiB of the reader, and what the allocator keeps: not the 32 MiB of a tensor.
  EXPECT_GT(grown, 15 << 10);
  EXPECT_LT(grown, 20 << 10);
  close(results[0]), close(results[1]);
}
#endif

}  // namespace
}  // namespace shardit
