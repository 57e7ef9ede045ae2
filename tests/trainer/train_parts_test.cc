// The parts of the training loop that are functions of their arguments: schedules, EMA warm-up, who computes where, who
// saves what, and how latents become pixels.
#include <cstdint>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "trainer/image_set.h"
#include "trainer/train/cpu_share.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/state_checkpoint.h"

namespace shardit {
namespace {

TEST(OptimizerTest, LearningRateWarmsUpAndDecays) {
  const auto rate = [](LearningRateSchedule schedule, int64_t step) {
    const OptimizerOptions options{
        .learning_rate = 2.0, .warmup_steps = 4, .schedule = schedule, .final_fraction = 0.1};
    return Optimizer(options, {}, 15).LearningRate(step);
  };
  for (const auto schedule :
       {LearningRateSchedule::kConstant, LearningRateSchedule::kCosine, LearningRateSchedule::kLinear}) {
    EXPECT_DOUBLE_EQ(rate(schedule, 0), 0.5);
    EXPECT_DOUBLE_EQ(rate(schedule, 3), 2.0);
    EXPECT_DOUBLE_EQ(rate(schedule, 4), 2.0);
  }
  EXPECT_DOUBLE_EQ(rate(LearningRateSchedule::kConstant, 14), 2.0);
  // Steps 4 to 14 decay: step 9 is half way, the last step is at the floor.
  EXPECT_NEAR(rate(LearningRateSchedule::kCosine, 9), 2.0 * 0.55, 1e-12);
  EXPECT_NEAR(rate(LearningRateSchedule::kLinear, 9), 2.0 * 0.55, 1e-12);
  EXPECT_NEAR(rate(LearningRateSchedule::kCosine, 14), 0.2, 1e-12);
  EXPECT_NEAR(rate(LearningRateSchedule::kLinear, 14), 0.2, 1e-12);
  EXPECT_GT(rate(LearningRateSchedule::kCosine, 6), rate(LearningRateSchedule::kLinear, 6));
}

TEST(OptimizerTest, EmaWarmUp) {
  EXPECT_DOUBLE_EQ(Optimizer({}, {.decay = 0.99}, 1).EmaDecay(0), 0.99);
  const Optimizer warm({}, {.decay = 0.99, .warmup = true}, 1);
  EXPECT_DOUBLE_EQ(warm.EmaDecay(0), 0.1);
  EXPECT_DOUBLE_EQ(warm.EmaDecay(10), 11.0 / 20.0);
  EXPECT_DOUBLE_EQ(warm.EmaDecay(100000), 0.99);
}

TEST(CpuShareTest, SharersGetDisjointEvenParts) {
  const std::vector<int> cpus{0, 2, 4, 6, 8};
  EXPECT_EQ(PartOfCpus(cpus, 0, 1), cpus);
  EXPECT_EQ(PartOfCpus(cpus, 0, 2), (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(PartOfCpus(cpus, 1, 2), (std::vector<int>{6, 8}));
  // More ranks than processors: one each, taken in turn.
  EXPECT_EQ(PartOfCpus({3, 5}, 3, 4), (std::vector<int>{5}));
  EXPECT_TRUE(PartOfCpus({}, 0, 2).empty());
}

DitConfig TinyConfig() {
  DitConfig config;
  config.depth = 2;
  config.width = 12;
  config.heads = 2;
  config.patch = 2;
  config.side = 4;
  config.classes = 2;
  return config;
}

// The slices of all ranks of a layout.
TEST(StateCheckpointTest, RanksStoreEveryElementOnce) {
  const DitConfig config = TinyConfig();
  const ParallelOptions layouts[] = {{.dp = 1},
                                     {.dp = 3},
                                     {.dp = 8, .zero_stage = 1},
                                     {.dp = 2, .zero_stage = 3},
                                     {.dp = 2, .tp = 2, .zero_stage = 2},
                                     {.dp = 2, .tp = 2, .pp = 2, .zero_stage = 3, .sequence_parallel = true}};
  for (const ParallelOptions& parallel : layouts) {
    const MeshShape shape{static_cast<int>(parallel.pp), static_cast<int>(parallel.dp), static_cast<int>(parallel.tp)};
    SCOPED_TRACE(absl::StrCat("pp ", shape.pp, " dp ", shape.dp, " tp ", shape.tp, " zero ", parallel.zero_stage));
    std::map<std::pair<StateGroup, std::string>, std::vector<Box>> boxes;
    std::map<std::string, std::vector<int64_t>> shapes;
    for (int rank = 0; rank < shape.ranks(); ++rank) {
      Allocator allocator(Device::Cpu());
      const TrainState state(config, MakeSharding(config, parallel, false, shape, CoordsOf(shape, rank)), allocator);
      for (const SliceRef& slice : StateSlices(state)) {
        boxes[{slice.group, slice.name}].push_back(slice.box);
        shapes[slice.name] = slice.shape;
      }
    }
    EXPECT_EQ(boxes.size(), 4 * Dit(config).parameters().size());
    for (const auto& [key, list] : boxes) EXPECT_TRUE(CheckTiling(shapes[key.second], list).ok()) << key.second;
  }
}

TEST(ImageSetTest, GreyColourAndFalseColour) {
  DitConfig config = TinyConfig();
  config.side = 2;
  config.channels = 1;
  const PixelSet grey = LatentsToPixels({-1.0f, 0.0f, 1.0f, 5.0f}, 1, config);
  EXPECT_EQ(grey.channels, 1);
  EXPECT_FALSE(grey.false_colour);
  EXPECT_EQ(grey.pixels, (std::vector<uint8_t>{0, 128, 255, 255}));

  config.channels = 3;
  std::vector<float> colour(12, -1.0f);
  colour[4] = 1.0f;  // green of the first pixel
  const PixelSet rgb = LatentsToPixels(colour, 1, config);
  EXPECT_EQ(rgb.channels, 3);
  EXPECT_EQ((std::vector<uint8_t>(rgb.pixels.begin(), rgb.pixels.begin() + 3)), (std::vector<uint8_t>{0, 255, 0}));

  config.channels = 4;
  std::vector<float> latent(16, 3.0f);
  latent[0] = 1.0f;  // the only spread is in the first channel, which becomes red
  const PixelSet false_colour = LatentsToPixels(latent, 1, config);
  EXPECT_TRUE(false_colour.false_colour);
  EXPECT_EQ(false_colour.channels, 3);
  EXPECT_EQ(false_colour.pixels[0], 0);
  EXPECT_EQ(false_colour.pixels[3], 255);
}

TEST(ImageSetTest, GroupsByClassAndFillsShortRowsWithWhite) {
  PixelSet set{.channels = 1, .pixels = {0, 1, 2, 3, 4}};  // five images of a pixel, classes 0, 1, 2, 0, 1
  EXPECT_EQ(GroupByClass(set, 5, 3).pixels, (std::vector<uint8_t>{0, 3, 1, 4, 2, 255}));
  // Classes without an image have no row.
  EXPECT_EQ(GroupByClass(set, 5, 1000).pixels, set.pixels);
}

TEST(ImageSetTest, RoomForAClassGridIsWhatAPngTakes) {
  DitConfig config = TinyConfig();
  config.side = 8;  // tiles of 64 pixels and a border of 2
  for (const int channels : {1, 4}) {
    config.channels = channels;
    const GridRoom room = RoomForClassGrid({0}, config, "");
    EXPECT_EQ(room.rows, 963);
    const PixelSet set{.channels = 1, .pixels = std::vector<uint8_t>(static_cast<size_t>(64 * room.columns))};
    const Image grid = ClassGrid(set, room.columns, {0}, config, "");
    EXPECT_LE(grid.width, kMaxPngSide);
    EXPECT_GT(grid.width + 68, kMaxPngSide);
  }
}

}  // namespace
}  // namespace shardit
