// What an evaluation takes from its inputs: statistics or images, how many, and which drawn images it keeps.
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/evaluate/evaluate_outputs.h"
#include "trainer/evaluate/evaluation_side.h"
#include "trainer/evaluate/metric_choice.h"
#include "trainer/extractor/extractor_file.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Like ADM's reference files: images and statistics, or only these.
class SidesTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, int64_t images, int64_t side = 2) {
    const std::string path = JoinPath(folder_.path(), name);
    auto npz = NpzWriter::Create(PosixFileSystem(), path);
    if (images > 0) {
      const std::vector<uint8_t> pixels(static_cast<size_t>(images * side * side));
      EXPECT_TRUE(npz->BeginArray("arr_0", NpyType::kU8, {images, side, side, 1}).ok());
      EXPECT_TRUE(npz->Append(pixels.data(), std::ssize(pixels)).ok());
    }
    const std::vector<double> mu = {1, 2}, sigma = {1, 0, 0, 1};
    EXPECT_TRUE(npz->BeginArray("mu", NpyType::kF64, {2}).ok());
    EXPECT_TRUE(npz->Append(mu.data(), 16).ok());
    EXPECT_TRUE(npz->BeginArray("sigma", NpyType::kF64, {2, 2}).ok());
    EXPECT_TRUE(npz->Append(sigma.data(), 32).ok());
    EXPECT_TRUE(npz->Finish().ok());
    return path;
  }

  EvaluationSide Open(const std::string& path, int64_t num, bool take_statistics) {
    auto side = OpenFileSide(IdentifySide(path).value(), num, take_statistics);
    EXPECT_TRUE(side.ok()) << side.status();
    return *std::move(side);
  }

  const TempFolder folder_;
};

TEST_F(SidesTest, StatisticsBesideImagesDoNotSayHowManyTheyAreOf) {
  const std::string path = Write("both.npz", 5);
  const EvaluationSide both = Open(path, 0, true);
  EXPECT_TRUE(both.statistics.has_value() && both.images != nullptr);
  EXPECT_FALSE(both.count.has_value());
  EXPECT_EQ(both.description["kind"], "statistics");
  EXPECT_EQ(both.description["images"], 5);

  // A number of images means images.
  const EvaluationSide first = Open(path, 3, true);
  EXPECT_FALSE(first.statistics.has_value());
  EXPECT_EQ(first.count, 3);
  EXPECT_EQ(first.description["kind"], "images");

  const EvaluationSide images = Open(path, 0, false);
  EXPECT_FALSE(images.statistics.has_value());
  EXPECT_EQ(images.count, 5);

  const EvaluationSide statistics = Open(Write("statistics.npz", 0), 0, false);
  EXPECT_TRUE(statistics.statistics.has_value() && statistics.images == nullptr);
  EXPECT_FALSE(statistics.count.has_value());
}

TEST_F(SidesTest, StatisticsOfUnknownResizingAreDoubted) {
  ExtractorInfo inception{.architecture = kInceptionArchitecture}, classifier{.architecture = kClassifierArchitecture};
  EvaluateRequest request;
  const EvaluationSide small = Open(Write("small.npz", 2), 0, false),
                       large = Open(Write("large.npz", 2, 299), 0, false);
  const EvaluationSide statistics = Open(Write("statistics.npz", 0), 0, false);
  const auto doubt = [&](const ExtractorInfo& info, const EvaluationSide& samples, const EvaluationSide& reference) {
    return ResizeDoubt({.request = request, .extractor = &info, .samples = samples, .reference = &reference});
  };
  EXPECT_THAT(doubt(inception, small, statistics), HasSubstr("statistics.npz"));
  EXPECT_THAT(doubt(inception, small, statistics), HasSubstr("--resize tf1"));
  EXPECT_THAT(doubt(inception, statistics, small), HasSubstr("statistics.npz"));
  EXPECT_THAT(doubt(inception, large, statistics), IsEmpty());
  EXPECT_THAT(doubt(inception, small, small), IsEmpty());
  EXPECT_THAT(doubt(classifier, small, statistics), IsEmpty());
  request.tf1_resize = true;
  EXPECT_THAT(doubt(inception, small, statistics), IsEmpty());
}

TEST(DrawnImagesTest, WantsOnlyChunksWithImagesThatItShows) {
  const ImageShape shape{.count = 400, .height = 8, .width = 8, .channels = 1};
  EXPECT_THAT(DrawnImages::WantedChunks("", "", shape, 3, 64), IsEmpty());
  EXPECT_THAT(DrawnImages::WantedChunks("a.npz", "a.png", shape, 3, 64), ElementsAre(1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(DrawnImages::WantedChunks("", "a.png", shape, 3, 64), ElementsAre(1, 0, 0, 0, 0, 0, 0));
  // Rows 0 to 49 of 150 classes: images 0 to 49, 150 to 199, 300 to 349.
  EXPECT_THAT(DrawnImages::WantedChunks("", "a.png", shape, 150, 50), ElementsAre(1, 0, 0, 1, 0, 0, 1, 0));
  // Fifty rows of such tiles are more than a PNG takes.
  const ImageShape huge{.count = 100, .height = 4096, .width = 1, .channels = 1};
  EXPECT_THAT(DrawnImages::WantedChunks("", "a.png", huge, 100, 10), ElementsAre(1, 1, 0, 0, 0, 0, 0, 0, 0, 0));
}

}  // namespace
}  // namespace shardit
