#include "model/classifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>

#include "core/tensor/rng.h"

namespace shardit {
namespace {

using testing::HasSubstr;

TEST(ClassifierTest, KnowsItsSizes) {
  const Classifier classifier({.channels = 1, .height = 32, .width = 32, .classes = 10});
  // 3 x 3 windows over 32 x 32, 16 x 16, 8 x 8 and 8 x 8 pixels, 16 cells of 64 to 128,
  // and 128 to 10.
  const int64_t products = 9 * (1024 * 16 + 256 * 16 * 32 + 64 * 32 * 64 + 64 * 64 * 64) + 16 * 64 * 128 + 128 * 10;
  EXPECT_EQ(classifier.FlopsPerImage(), 2 * products);
  EXPECT_EQ(classifier.parameters().elements(),
            9 * (16 + 16 * 32 + 32 * 64 + 64 * 64) + 16 + 32 + 64 + 64 + (16 * 64 + 1) * 128 + 129 * 10);
  EXPECT_EQ(classifier.config().grid(), 4);
  EXPECT_EQ((ClassifierConfig{.height = 24, .width = 24}).grid(), 2);
  EXPECT_EQ((ClassifierConfig{.height = 28, .width = 28}).grid(), 1);
  EXPECT_EQ((ClassifierConfig{.height = 32, .width = 64}).grid(), 1);
  EXPECT_EQ(classifier.config().spatial_dim(), 8 * 8 * 7);
  EXPECT_EQ((ClassifierConfig{.height = 128, .width = 128}).spatial_dim(), 0);  // 7168 values are too many
  EXPECT_EQ((ClassifierConfig{.first_channels = 1}).spatial_dim(), 0);          // a map of four channels
}

TEST(ClassifierTest, RefusesWhatItCannotTake) {
  EXPECT_TRUE(ClassifierConfig().Validate().ok());
  EXPECT_THAT(std::string((ClassifierConfig{.channels = 4}).Validate().message()), HasSubstr("channels 4"));
  EXPECT_THAT(std::string((ClassifierConfig{.height = 30}).Validate().message()), HasSubstr("image side 30"));
  EXPECT_FALSE((ClassifierConfig{.width = 0}).Validate().ok());
  EXPECT_FALSE((ClassifierConfig{.width = 1 << 20}).Validate().ok());
  EXPECT_FALSE((ClassifierConfig{.classes = 1}).Validate().ok());
  EXPECT_FALSE((ClassifierConfig{.first_channels = 0}).Validate().ok());
  EXPECT_FALSE((ClassifierConfig{.feature_dim = 1 << 20}).Validate().ok());
}

// An oblong image, and a square one with a grid of cells.
class ClassifierWidths : public testing::TestWithParam<int64_t> {};

TEST_P(ClassifierWidths, DescribesAnImageWhateverItsNeighbours) {
  const int64_t width = GetParam();
  RankContext context(2);
  Classifier classifier({.channels = 3, .height = 8, .width = width, .classes = 5, .first_channels = 3});
  classifier.parameters().Allocate(context.allocator());
  classifier.parameters().Initialize(1);
  constexpr int64_t kCount = 33;  // no multiple of any tile
  const Tensor x = Tensor::Empty(context.allocator(), {kCount, 8, width, 3});
  FillNormal({.seed = 2, .purpose = RngPurpose::kTest, .stream = 0}, 0, x.elements(), x.data());
  Tape tape(context, Tape::Mode::kInference);
  const Classifier::Output all = classifier.Forward(tape, Var(x));
  EXPECT_EQ(all.features.shape(), Shape({kCount, 128}));
  EXPECT_EQ(all.logits.shape(), Shape({kCount, 5}));
  EXPECT_EQ(all.map_NHWC.shape(), Shape({kCount, 2, width / 4, 12}));
  for (int64_t n = 0; n < kCount; ++n) {
    const Classifier::Output one = classifier.Forward(tape, Var(x.Narrow(0, n, 1)));
    for (const auto& [single, among] : {std::pair(one.features, all.features), std::pair(one.logits, all.logits),
                                        std::pair(one.map_NHWC, all.map_NHWC)}) {
      const Tensor& row = single.value();
      EXPECT_EQ(std::memcmp(row.data(), among.value().data() + n * row.elements(), static_cast<size_t>(row.bytes())), 0)
          << "image " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Images, ClassifierWidths, testing::Values(8, 12), testing::PrintToStringParamName());

}  // namespace
}  // namespace shardit
