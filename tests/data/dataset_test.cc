#include "data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "core/tensor/rng.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

std::vector<float> Read(const Dataset& dataset, int64_t sample, const SampleDraw& draw) {
  auto reader = SampleReader::Make(dataset);
  EXPECT_TRUE(reader.ok());
  std::vector<float> x(static_cast<size_t>(dataset.shape().elements()));
  EXPECT_TRUE(reader->Read(sample, draw, x.data()).ok());
  return x;
}

TEST(Dataset, FilesAreOneIndexSpaceInNameOrder) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "b.h5", 4), 5);
  WriteTestFile(TestInfo(dir / "a.h5", 5), 0);
  WriteTestFile(TestInfo(dir / "c.h5", 1), 9);
  for (const bool in_memory : {false, true}) {
    const auto dataset = Dataset::Open({dir / "*.h5", in_memory});
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ((*dataset)->size(), 10);
    EXPECT_EQ((*dataset)->classes(), 7);
    for (int64_t i = 0; i < 10; ++i) {
      EXPECT_EQ((*dataset)->label(i), TestLabel(i));
      const std::vector<float> x = Read(**dataset, i, {});
      for (int64_t e = 0; e < 30; ++e) ASSERT_EQ(x[static_cast<size_t>(e)], TestValue(i, e)) << i;
    }
  }
}

TEST(Dataset, PatternsAndNames) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a[1].h5", 2));
  EXPECT_TRUE(Dataset::Open({dir / "a[1].h5"}).ok());
  const absl::Status missing = Dataset::Open({dir / "x*.h5"}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(missing.message(), "x*.h5")) << missing;
}

TEST(Dataset, RefusesFilesThatDoNotFit) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a.h5", 2));
  WriteTestFile(TestInfo(dir / "b.h5", 2, {2, 5, 3}));
  const absl::Status shape = Dataset::Open({dir / "*.h5"}).status();
  EXPECT_EQ(shape.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(shape.message(), "b.h5: latent shape: expected [2, 3, 5]")) << shape;
  LatentFileInfo info = TestInfo(dir / "b.h5", 2);
  info.classes = 8;
  WriteTestFile(info);
  const absl::Status classes = Dataset::Open({dir / "*.h5"}).status();
  EXPECT_TRUE(absl::StrContains(classes.message(), "classes: expected 7")) << classes;
  info.classes = 0;
  WriteTestFile(info);
  EXPECT_TRUE(Dataset::Open({dir / "*.h5"}).ok());
  EXPECT_EQ(Dataset::Open({dir / "*.h5", false, 1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Dataset, FingerprintSeesLabelsAndSizesNotPlaces) {
  const TempFolder dir, elsewhere;
  const auto fingerprint = [](const std::string& path) { return (*Dataset::Open({path}))->Fingerprint(); };
  WriteTestFile(TestInfo(dir / "a.h5", 4));
  WriteTestFile(TestInfo(elsewhere / "z.h5", 4));
  EXPECT_EQ(fingerprint(dir / "a.h5"), fingerprint(elsewhere / "z.h5"));
  WriteTestFile(TestInfo(elsewhere / "z.h5", 4), 1);
  EXPECT_NE(fingerprint(dir / "a.h5"), fingerprint(elsewhere / "z.h5"));
  WriteTestFile(TestInfo(elsewhere / "z.h5", 5));
  EXPECT_NE(fingerprint(dir / "a.h5"), fingerprint(elsewhere / "z.h5"));
}

TEST(SampleReader, ScalesHalvesAndMirrors) {
  const TempFolder dir;
  LatentFileInfo info = TestInfo(dir / "a.h5", 4);
  info.scale = 0.5f;
  info.type = LatentType::kFloat16;
  WriteTestFile(info);
  const auto dataset = Dataset::Open({info.path});
  ASSERT_TRUE(dataset.ok());
  const std::vector<float> plain = Read(**dataset, 3, {});
  const std::vector<float> mirrored = Read(**dataset, 3, {.mirror = true});
  for (int64_t row = 0; row < 6; ++row) {
    for (int64_t i = 0; i < 5; ++i) {
      EXPECT_EQ(plain[row * 5 + i], 0.5f * TestValue(3, row * 5 + i));
      EXPECT_EQ(mirrored[row * 5 + i], plain[row * 5 + 4 - i]);
    }
  }
}

TEST(SampleReader, DoesNotMirrorFilesThatHoldMirroredCopies) {
  const TempFolder dir;
  LatentFileInfo info = TestInfo(dir / "a.h5", 2);
  info.flipped = true;
  WriteTestFile(info);
  const auto dataset = Dataset::Open({info.path});
  ASSERT_TRUE(dataset.ok());
  EXPECT_EQ(Read(**dataset, 1, {.mirror = true}), Read(**dataset, 1, {}));
}

TEST(SampleReader, DrawsFromMoments) {
  const TempFolder dir;
  for (const LatentType type : {LatentType::kFloat32, LatentType::kFloat16}) {
    for (const bool in_memory : {false, true}) {
      LatentFileInfo info = TestInfo(dir / "a.h5", 2);
      info.kind = LatentKind::kMoments;
      info.type = type;
      info.scale = 0.25f;
      WriteTestFile(info);
      const auto dataset = Dataset::Open({info.path, in_memory});
      ASSERT_TRUE(dataset.ok());
      const std::vector<float> x = Read(**dataset, 1, {.seed = 11, .stream = 77});
      std::vector<float> z(30);
      FillNormal({11, RngPurpose::kPosterior, 77}, 0, 30, z.data());
      for (int64_t e = 0; e < 30; ++e) {
        const float deviation = std::abs(TestValue(1, 30 + e)) / 64;  // exact in float16 too
        EXPECT_FLOAT_EQ(x[e], (TestValue(1, e) + deviation * z[e]) * 0.25f);
      }
      EXPECT_NE(x, Read(**dataset, 1, {.seed = 11, .stream = 78}));
      // The draw belongs to the stored element: a mirrored sample is the mirror image of the plain one.
      const std::vector<float> mirrored = Read(**dataset, 1, {.seed = 11, .stream = 77, .mirror = true});
      EXPECT_EQ(mirrored[0], x[4]);
    }
  }
}

TEST(ReadRange, IsTheSameWhateverTheCut) {
  const auto dataset = Dataset::Open({FixturePath("h5py_moments.h5")});
  ASSERT_TRUE(dataset.ok());
  auto reader = SampleReader::Make(**dataset);
  ASSERT_TRUE(reader.ok());
  std::vector<float> whole(5 * 16), parts(5 * 16);
  std::vector<int32_t> labels(5), part_labels(5);
  ASSERT_TRUE(ReadRange(**dataset, *reader, 3, 0, 5, whole, labels).ok());
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 2}, {2, 3}}) {
    ASSERT_TRUE(ReadRange(**dataset, *reader, 3, first, count, std::span(parts).subspan(first * 16, count * 16),
                          std::span(part_labels).subspan(first, count))
                    .ok());
  }
  EXPECT_EQ(whole, parts);
  EXPECT_EQ(labels, (std::vector<int32_t>{3, 1, 4, 1, 5}));
  EXPECT_EQ(labels, part_labels);
}

}  // namespace
}  // namespace shardit
