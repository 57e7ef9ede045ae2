#include "data/loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

struct Copy {
  std::vector<int64_t> ids, positions;
  std::vector<int32_t> labels;
  std::vector<float> x;
  void Add(const Batch& batch) {
    ids.insert(ids.end(), batch.sample_ids.begin(), batch.sample_ids.end());
    positions.insert(positions.end(), batch.positions.begin(), batch.positions.end());
    labels.insert(labels.end(), batch.y.begin(), batch.y.end());
    x.insert(x.end(), batch.x.begin(), batch.x.end());
  }
  friend bool operator==(const Copy&, const Copy&) = default;
};

class LoaderTest : public testing::Test {
 protected:
  static constexpr int64_t kSamples = 53;

  void SetUp() override {
    WriteTestFile(TestInfo(dir_ / "a.h5", 20), 0);
    WriteTestFile(TestInfo(dir_ / "b.h5", 33), 20);
    auto dataset = Dataset::Open({dir_ / "*.h5"});
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    dataset_ = *dataset;
  }

  // Steps [first, last) of all ranks, joined by position.
  Copy Steps(int64_t first, int64_t last, int64_t dp_size, LoaderOptions options) {
    std::vector<std::unique_ptr<Loader>> loaders;
    options.start_step = first;
    options.dp_size = dp_size;
    for (options.dp_rank = 0; options.dp_rank < dp_size; ++options.dp_rank) {
      auto loader = Loader::Create(dataset_, options);
      EXPECT_TRUE(loader.ok()) << loader.status();
      loaders.push_back(*std::move(loader));
    }
    Copy copy;
    for (int64_t step = first; step < last; ++step) {
      for (const auto& loader : loaders) {
        const auto batch = loader->Next();
        EXPECT_TRUE(batch.ok()) << batch.status();
        EXPECT_EQ((*batch)->step, step);
        EXPECT_GE((*batch)->wait_ms, 0);
        copy.Add(**batch);
      }
    }
    return copy;
  }

  TempFolder dir_;
  std::shared_ptr<const Dataset> dataset_;
};

TEST_F(LoaderTest, FollowsTheStreamAndEveryEpochHasEverySampleOnce) {
  const Copy copy = Steps(0, 14, 1, {.seed = 3, .global_batch = 12, .flip = false});
  SampleStream stream(3, kSamples);
  for (int64_t g = 0; g < 14 * 12; ++g) {
    EXPECT_EQ(copy.positions[g], g);
    EXPECT_EQ(copy.ids[g], stream.SampleAt(g));
    EXPECT_EQ(copy.labels[g], TestLabel(copy.ids[g]));
    for (int64_t e = 0; e < 30; ++e) ASSERT_EQ(copy.x[g * 30 + e], TestValue(copy.ids[g], e)) << g;
  }
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const auto begin = copy.ids.begin() + epoch * kSamples;
    EXPECT_EQ(std::set<int64_t>(begin, begin + kSamples).size(), static_cast<size_t>(kSamples));
  }
}

TEST_F(LoaderTest, RanksAndRestartsSeeOneSequence) {
  const LoaderOptions options{.seed = 8, .global_batch = 12};
  const Copy whole = Steps(0, 10, 1, options);
  for (const int64_t ranks : {2, 3, 4, 12}) EXPECT_EQ(Steps(0, 10, ranks, options), whole) << ranks;
  Copy resumed = Steps(0, 4, 3, options);
  const Copy rest = Steps(4, 10, 2, options);
  resumed.ids.insert(resumed.ids.end(), rest.ids.begin(), rest.ids.end());
  EXPECT_EQ(resumed.ids, whole.ids);
  EXPECT_TRUE(std::equal(rest.x.begin(), rest.x.end(), whole.x.begin() + 4 * 12 * 30));
  EXPECT_NE(Steps(0, 10, 1, {.seed = 9, .global_batch = 12}).ids, whole.ids);
}

TEST_F(LoaderTest, MirrorsHalfOfThePositions) {
  const Copy plain = Steps(0, 100, 1, {.seed = 3, .global_batch = 20, .flip = false});
  const Copy mirrored = Steps(0, 100, 1, {.seed = 3, .global_batch = 20, .flip = true});
  EXPECT_EQ(plain.ids, mirrored.ids);
  int64_t flips = 0;
  std::map<int64_t, std::set<bool>> by_sample;
  for (int64_t g = 0; g < 2000; ++g) {
    const bool flipped = mirrored.x[g * 30] != plain.x[g * 30];
    flips += flipped;
    by_sample[plain.ids[g]].insert(flipped);
    for (int64_t i = 0; i < 30; ++i) {
      const int64_t from = flipped ? i / 5 * 5 + 4 - i % 5 : i;
      ASSERT_EQ(mirrored.x[g * 30 + i], plain.x[g * 30 + from]);
    }
  }
  EXPECT_NEAR(flips, 1000, 112);  // five standard deviations
  for (const auto& [sample, kinds] : by_sample) EXPECT_EQ(kinds.size(), 2u) << sample;
}

TEST_F(LoaderTest, BuffersAreAlignedReusedAndStableUntilTheNextCall) {
  auto loader = Loader::Create(dataset_, {.seed = 1, .global_batch = 8, .prefetch = 3});
  ASSERT_TRUE(loader.ok());
  std::set<const float*> buffers;
  for (int step = 0; step < 50; ++step) {
    const auto batch = (*loader)->Next();
    ASSERT_TRUE(batch.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*batch)->x.data()) % 64, 0u);
    buffers.insert((*batch)->x.data());
    Copy before, after;
    before.Add(**batch);
    if (step % 10 == 0) usleep(2000);  // let the IO thread run ahead as far as it may
    after.Add(**batch);
    EXPECT_EQ(before, after);
  }
  EXPECT_EQ(buffers.size(), 4u);
}

TEST_F(LoaderTest, BatchesLargerThanTheDataSetSpanEpochs) {
  const Copy copy = Steps(0, 2, 2, {.seed = 5, .global_batch = 200});
  SampleStream stream(5, kSamples);
  for (int64_t g = 0; g < 400; ++g) EXPECT_EQ(copy.ids[g], stream.SampleAt(g));
}

TEST_F(LoaderTest, StopsWhileTheRingIsFullAndWhileItIsFilling) {
  for (int round = 0; round < 20; ++round) {
    auto loader = Loader::Create(dataset_, {.seed = 1, .global_batch = 4096, .prefetch = 1 + round % 4});
    ASSERT_TRUE(loader.ok());
    if (round % 2) {
      ASSERT_TRUE((*loader)->Next().ok());
    }
  }
}

TEST_F(LoaderTest, ReadErrorsArriveAtTheirStepAndStay) {
  WriteTestFile(TestInfo(dir_ / "big.h5", 4000));
  const auto dataset = Dataset::Open({dir_ / "big.h5"});
  ASSERT_TRUE(dataset.ok());
  auto loader = Loader::Create(*dataset, {.seed = 1, .global_batch = 4, .prefetch = 2});
  ASSERT_TRUE(loader.ok());
  ASSERT_EQ(truncate((dir_ / "big.h5").c_str(), 4096), 0);
  absl::Status status;
  for (int step = 0; step < 10 && status.ok(); ++step) status = (*loader)->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "big.h5")) << status;
  EXPECT_EQ((*loader)->Next().status(), status);
}

TEST_F(LoaderTest, RefusesWhatMakesNoStream) {
  const auto code = [&](const LoaderOptions& options) { return Loader::Create(dataset_, options).status().code(); };
  const auto bad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.global_batch = 10, .dp_size = 3}), bad);
  EXPECT_EQ(code({.global_batch = 0}), bad);
  EXPECT_EQ(code({.global_batch = 4, .dp_rank = 2, .dp_size = 2}), bad);
  EXPECT_EQ(code({.global_batch = 4, .start_step = -1}), bad);
  EXPECT_EQ(code({.global_batch = 4, .start_step = INT64_MAX / 2}), bad);
  EXPECT_EQ(code({.global_batch = 4, .prefetch = 0}), bad);
}

// Several loaders in one process, on files that need HDF5 for every read: threads as ranks.
TEST(LoaderThreads, ChunkedFilesServeSeveralLoaders) {
  const auto chunked = Dataset::Open({FixturePath("h5py_half_chunked.h5")});
  const auto memory = Dataset::Open({FixturePath("h5py_half_chunked.h5"), true});
  ASSERT_TRUE(chunked.ok() && memory.ok());
  std::vector<std::unique_ptr<Loader>> loaders;
  for (const auto& dataset : {*chunked, *chunked, *memory}) {
    auto loader = Loader::Create(dataset, {.seed = 2, .global_batch = 7});
    ASSERT_TRUE(loader.ok());
    loaders.push_back(*std::move(loader));
  }
  for (int step = 0; step < 30; ++step) {
    std::vector<Copy> copies(3);
    for (size_t i = 0; i < 3; ++i) {
      const auto batch = loaders[i]->Next();
      ASSERT_TRUE(batch.ok());
      copies[i].Add(**batch);
    }
    EXPECT_EQ(copies[0], copies[1]);
    EXPECT_EQ(copies[0], copies[2]);
  }
}

}  // namespace
}  // namespace shardit
