// What the ranks of an evaluation do together, on ranks that are threads: features and scores are the same on any
// number of them, interrupted or not, and an error of one is an error of all.
#include <algorithm>
#include <csignal>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/evaluate/extract_features.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/evaluate/scores.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kImages = 37, kChunk = 5, kPixels = 4;

uint8_t PixelOf(int64_t image, int64_t pixel) {
  return static_cast<uint8_t>(HashBytes(absl::StrCat(image, " ", pixel)) >> 32);
}

// Images of counted bytes. Reading those of chunk `broken` fails.
class FakeImages : public ImageSource {
 public:
  explicit FakeImages(int64_t broken = -1) : broken_(broken) {}
  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }
  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    if (first / kChunk == broken_) return absl::DataLossError(absl::StrCat("image ", first, " is damaged"));
    read += static_cast<int64_t>(pixels.size()) / kPixels;
    for (size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = PixelOf(first + static_cast<int64_t>(i) / kPixels, static_cast<int64_t>(i) % kPixels);
    }
    return absl::OkStatus();
  }

  int64_t read = 0;  // images

 private:
  ImageShape shape_{kImages, 2, 2, 1};
  std::vector<int32_t> labels_;
  int64_t broken_;
};

// Features are the pixels, spatial ones their sum, logits two of them; counts the images that it sees.
class FakeExtractor : public FeatureExtractor {
 public:
  FakeExtractor() {
    info_.feature_dim = kPixels;
    info_.spatial_dim = 1;
    info_.classes = 2;
  }
  const ExtractorInfo& info() const override { return info_; }
  int64_t FlopsPerImage() const override { return 1; }
  absl::Status Extract(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape,
                       FeatureBatch* out) const override {
    images += shape.count;
    out->features.assign(pixels.begin(), pixels.end());
    out->spatial.assign(static_cast<size_t>(shape.count), 0.0f);
    out->logits.clear();
    for (size_t i = 0; i < pixels.size(); ++i) {
      out->spatial[i / kPixels] += pixels[i];
      if (i % kPixels < 2) out->logits.push_back(static_cast<float>(pixels[i]) / 64.0f);
    }
    return absl::OkStatus();
  }

  mutable int64_t images = 0;

 private:
  ExtractorInfo info_;
};

struct Outcome {
  absl::Status status;
  FeatureSet set;
  int64_t images_extracted = 0;  // over all ranks
  int64_t images_read = 0;       // over all ranks
  std::vector<int64_t> taken;    // chunks whose pixels were handed over on rank 0
};

struct Case {
  int ranks = 1;
  std::string store;            // folder; empty: none
  int64_t broken = -1;          // chunk that cannot be read
  std::vector<uint8_t> wanted;  // chunks whose pixels are to be handed over
  bool keep_pixels = false;     // in the store
  StopSignal* stop = nullptr;
};

FeatureStoreOptions StoreOptions() {
  return {
      .key = 1, .samples = kImages, .chunk_samples = kChunk, .feature_dim = kPixels, .spatial_dim = 1, .logit_dim = 2};
}

Outcome Extract(const Case& wanted) {
  Outcome outcome;
  std::mutex mutex;
  std::set<absl::StatusCode> codes;  // of the ranks
  RunThreadWorld(wanted.ranks, [&](World& world) {
    RankContext context(1);
    const Crew crew{world.comm(), context.pool(), wanted.stop};
    FakeImages images(wanted.broken);
    const FakeExtractor extractor;
    std::optional<FeatureStore> store;
    ExtractOptions options{.name = "images",
                           .batch = 3,
                           .chunk = kChunk,
                           .keep_spatial = true,
                           .keep_logits = true,
                           .wanted = wanted.wanted};
    std::optional<ChunkStore> pixels;
    if (!wanted.store.empty()) {
      store.emplace(FeatureStore::Open(PosixFileSystem(), wanted.store, StoreOptions()).value());
      options.store = &*store;
    }
    if (wanted.keep_pixels) {
      const ChunkStoreOptions kept{
          .kind = "pixels", .key = 1, .items = kImages, .chunk_items = kChunk, .item_bytes = kPixels};
      pixels.emplace(ChunkStore::Open(PosixFileSystem(), wanted.store, kept).value());
      options.pixel_store = &*pixels;
    }
    options.take_images = [&](int64_t first, std::span<const uint8_t> pixels) {
      EXPECT_EQ(pixels.size(), static_cast<size_t>(std::min(kChunk, kImages - first) * kPixels));
      for (size_t i = 0; i < pixels.size(); ++i) {
        EXPECT_EQ(pixels[i], PixelOf(first + static_cast<int64_t>(i) / kPixels, static_cast<int64_t>(i) % kPixels));
      }
      outcome.taken.push_back(first / kChunk);
      return absl::OkStatus();
    };
    const absl::StatusOr<FeatureSet> set = ExtractFeatures(crew, context, extractor, images, options);
    const std::lock_guard lock(mutex);
    outcome.images_extracted += extractor.images;
    outcome.images_read += images.read;
    codes.insert(set.status().code());
    if (world.rank() == 0) outcome.status = set.status();
    if (!set.ok()) return;
    if (outcome.set.count > 0) {
      EXPECT_EQ(outcome.set.features, set->features);
    }
    outcome.set = *set;
  });
  EXPECT_EQ(codes.size(), 1u) << "ranks disagree";
  return outcome;
}

void ExpectAllFeatures(const FeatureSet& set) {
  ASSERT_EQ(set.count, kImages);
  ASSERT_EQ(set.features.size(), static_cast<size_t>(kImages * kPixels));
  for (int64_t i = 0; i < kImages; ++i) {
    float sum = 0.0f;
    for (int64_t pixel = 0; pixel < kPixels; ++pixel) {
      ASSERT_EQ(set.features[static_cast<size_t>(i * kPixels + pixel)], PixelOf(i, pixel)) << i;
      sum += PixelOf(i, pixel);
    }
    ASSERT_EQ(set.spatial[static_cast<size_t>(i)], sum);
    ASSERT_EQ(set.logits[static_cast<size_t>(2 * i + 1)], PixelOf(i, 1) / 64.0f);
  }
}

TEST(ExtractFeaturesTest, EveryRankGetsAllFeaturesInOrder) {
  for (const int ranks : {1, 2, 3, 11}) {
    const Outcome outcome = Extract({.ranks = ranks});
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    ExpectAllFeatures(outcome.set);
    EXPECT_EQ(outcome.images_extracted, kImages);
  }
}

TEST(ExtractFeaturesTest, StoredChunksAreNotExtractedAgain) {
  const TempFolder folder;
  const Outcome first = Extract({.ranks = 2, .store = folder.path(), .broken = 4});
  EXPECT_EQ(first.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(first.status.message()), HasSubstr("image 20 is damaged"));
  EXPECT_EQ(first.images_extracted, 25);  // chunks 0 to 3, and 5 in the round of 4

  const std::string damaged = JoinPath(folder.path(), "chunk-000001.features");
  std::string bytes = ReadWholeFile(damaged, 1 << 20).value();
  bytes.back() ^= 1;
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), damaged, bytes).ok());
  const Outcome second = Extract({.ranks = 3, .store = folder.path()});
  ASSERT_TRUE(second.status.ok()) << second.status;
  ExpectAllFeatures(second.set);
  EXPECT_EQ(second.images_extracted, kImages - 20);  // all but chunks 0, 2, 3 and 5
  const Outcome third = Extract({.ranks = 1, .store = folder.path()});
  ExpectAllFeatures(third.set);
  EXPECT_EQ(third.images_extracted, 0);
}

TEST(ExtractFeaturesTest, AnErrorOfOneRankIsOneOfAll) {
  for (const int ranks : {1, 2, 4}) {
    const Outcome outcome = Extract({.ranks = ranks, .broken = 6});
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDataLoss);
  }
}

// Chunks 0, 1, 4 and the last, which is short.
const std::vector<uint8_t> kWanted = {1, 1, 0, 0, 1, 0, 0, 1};

TEST(ExtractFeaturesTest, HandsOverPixelsInOrderEvenOfStoredChunks) {
  const TempFolder folder;
  ASSERT_TRUE(Extract({.ranks = 2, .store = folder.path()}).status.ok());
  for (const int ranks : {1, 3}) {
    for (const std::string& store : {folder.path(), std::string()}) {
      const Outcome outcome = Extract({.ranks = ranks, .store = store, .wanted = kWanted});
      ASSERT_TRUE(outcome.status.ok()) << outcome.status;
      ExpectAllFeatures(outcome.set);
      EXPECT_EQ(outcome.taken, (std::vector<int64_t>{0, 1, 4, 7}));
      EXPECT_EQ(outcome.images_extracted, store.empty() ? kImages : 0);
      EXPECT_EQ(outcome.images_read, store.empty() ? kImages : 17);
    }
  }
}

TEST(ExtractFeaturesTest, KeptPixelsAreNotReadAgain) {
  const TempFolder folder;
  const Case whole{.ranks = 2, .store = folder.path(), .wanted = kWanted, .keep_pixels = true};
  Case broken = whole;
  broken.broken = 4;
  EXPECT_EQ(Extract(broken).status.code(), absl::StatusCode::kDataLoss);  // chunks 0 to 3, and 5, are stored
  for (int64_t left : {kImages - 25, int64_t{0}}) {
    const Outcome outcome = Extract(whole);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    ExpectAllFeatures(outcome.set);
    EXPECT_EQ(outcome.taken, (std::vector<int64_t>{0, 1, 4, 7}));
    EXPECT_EQ(outcome.images_read, left);
    EXPECT_EQ(outcome.images_extracted, left);
  }
  // Either half of a chunk that is lost is made from the other, or again.
  for (const std::string name : {"chunk-000001.features", "chunk-000004.pixels"}) {
    ASSERT_TRUE(PosixFileSystem().RemoveFile(JoinPath(folder.path(), name)).ok());
  }
  const Outcome mended = Extract(whole);
  ASSERT_TRUE(mended.status.ok()) << mended.status;
  ExpectAllFeatures(mended.set);
  EXPECT_EQ(mended.images_read, kChunk);
  EXPECT_EQ(mended.images_extracted, kChunk);
}

TEST(ExtractFeaturesTest, SignalStopsAtAChunkAndTheStoreGoesOn) {
  const TempFolder folder;
  {
    StopSignal stop;
    raise(SIGUSR1);
    const Outcome outcome = Extract({.ranks = 2, .store = folder.path(), .stop = &stop});
    EXPECT_EQ(ExitCodeOf(outcome.status), ExitCode::kRequeue);
    EXPECT_EQ(outcome.images_extracted, 2 * kChunk);
  }
  const Outcome outcome = Extract({.ranks = 1, .store = folder.path()});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  ExpectAllFeatures(outcome.set);
  EXPECT_EQ(outcome.images_extracted, kImages - 2 * kChunk);
}

TEST(DealTest, GivesAllRanksAllResultsInOrder) {
  for (const int ranks : {1, 2, 5}) {
    RunThreadWorld(ranks, [&](World& world) {
      RankContext context(world.rank() == 0 ? 2 : 1);  // ranks need not have equally many threads
      const Crew crew{world.comm(), context.pool()};
      const auto squares = Deal<int64_t>(crew, 23, 4, [](Range range) {
        std::vector<int64_t> values;
        for (int64_t i = range.begin; i < range.end; ++i) values.push_back(i * i);
        return values;
      });
      ASSERT_TRUE(squares.ok()) << squares.status();
      ASSERT_EQ(squares->size(), 23u);
      for (int64_t i = 0; i < 23; ++i) EXPECT_EQ((*squares)[static_cast<size_t>(i)], i * i);
      const auto failed = Deal<int64_t>(crew, 23, 1, [](Range range) -> absl::StatusOr<std::vector<int64_t>> {
        if (range.begin == 17) return absl::DataLossError("item 17");
        return std::vector<int64_t>{range.begin};
      });
      EXPECT_EQ(failed.status().code(), absl::StatusCode::kDataLoss);
    });
  }
}

TEST(ScoresTest, DoNotDependOnRanksAndThreads) {
  SetLinearAlgebraThreads(1);
  const FeatureSet samples = Extract({}).set;
  FeatureSet reference = samples;
  for (float& value : reference.features) value = 0.75f * value + 8.0f;
  std::vector<double> expected;
  for (const int ranks : {1, 2, 3}) {
    RunThreadWorld(ranks, [&](World& world) {
      RankContext context(ranks == 1 ? 3 : 1);
      const Crew crew{world.comm(), context.pool()};
      const Gaussian mine = GaussianOf(samples.feature_rows()).value();
      const FeatureRows rows = samples.feature_rows();
      const auto frechet =
          FrechetScore(crew, mine, &rows, GaussianOf(reference.feature_rows()).value(), /*replicates=*/9);
      const auto pr = PrecisionRecallOf(crew, rows, reference.feature_rows(), 3, 9);
      ASSERT_TRUE(frechet.ok() && pr.ok());
      EXPECT_TRUE(frechet->has_interval());
      EXPECT_LT(frechet->low, frechet->value);
      EXPECT_GT(frechet->high, frechet->value);
      const std::vector<double> got = {frechet->value,    frechet->low,     frechet->high,  pr->precision.value,
                                       pr->precision.low, pr->recall.value, pr->recall.high};
      if (world.rank() != 0) return;
      if (expected.empty()) expected = got;
      EXPECT_EQ(got, expected);
    });
  }
}

TEST(ScoresTest, AgreementIsThePartOfRowsThatTheClassifierLabelsAsAsked) {
  FeatureSet set;
  set.count = 4;
  set.classes = 3;
  set.logits = {0, 1, 2, 5, 1, 2, -3, -1, -2, 1, 0, 0};
  const std::vector<int32_t> labels = {2, 0, 0, 0};
  const Score score = AgreementOf(set, labels, 0);
  EXPECT_EQ(score.value, 0.75);
  EXPECT_FALSE(score.has_interval());
  EXPECT_TRUE(AgreementOf(set, labels, 50).has_interval());
}

}  // namespace
}  // namespace shardit
