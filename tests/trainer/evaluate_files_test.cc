#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/temp_folder.h"
#include "tests/trainer/evaluate_golden.h"
#include "trainer/evaluate/feature_store.h"
#include "trainer/evaluate/statistics_file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string EmptyFolder(const std::string& name) {
  static const TempFolder base;
  const std::string path = base / name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void Overwrite(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

Gaussian Estimate(const OwnedRows& rows) {
  Moments moments(rows.dim);
  moments.Add(rows.values.data(), rows.count);
  return *moments.Estimate();
}

TEST(StatisticsFile, ReadsWhatNumpyWrote) {
  const std::string path = GoldenFile("evaluate_statistics.npz");
  EXPECT_TRUE(HoldsStatistics(path).value_or(false));
  const auto statistics = ReadStatisticsFile(path);
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  const Gaussian features = Estimate(GoldenFeatures(6, 40, 6)), spatial = Estimate(GoldenFeatures(7, 30, 4));
  ASSERT_EQ(statistics->features.dim(), 6);
  ASSERT_TRUE(statistics->spatial.has_value());
  ASSERT_EQ(statistics->spatial->dim(), 4);
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(statistics->features.mean[i], features.mean[i], 1e-7);  // stored as fp32
  for (int i = 0; i < 36; ++i) EXPECT_NEAR(statistics->features.covariance[i], features.covariance[i], 1e-13);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(statistics->spatial->mean[i], spatial.mean[i], 1e-13);
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(statistics->spatial->covariance[i], spatial.covariance[i], 1e-7);
}

TEST(StatisticsFile, ReadsWhatItWrote) {
  const std::string path = JoinPath(EmptyFolder("statistics"), "x.npz");
  ReferenceStatistics statistics{Estimate(GoldenFeatures(1, 50, 5)), std::nullopt};
  for (const bool with_spatial : {false, true}) {
    if (with_spatial) statistics.spatial = Estimate(GoldenFeatures(2, 50, 3));
    ASSERT_TRUE(WriteStatisticsFile(PosixFileSystem(), path, statistics).ok());
    const auto read = ReadStatisticsFile(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->features.mean, statistics.features.mean);
    EXPECT_EQ(read->features.covariance, statistics.features.covariance);
    ASSERT_EQ(read->spatial.has_value(), with_spatial);
    if (with_spatial) {
      EXPECT_EQ(read->spatial->covariance, statistics.spatial->covariance);
    }
  }
}

struct NamedArray {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<double> values;
};

std::string Archive(const std::vector<NamedArray>& arrays) {
  const std::string path = JoinPath(EmptyFolder("archive"), "x.npz");
  auto writer = NpzWriter::Create(PosixFileSystem(), path);
  for (const NamedArray& array : arrays) {
    EXPECT_TRUE(writer->BeginArray(array.name, NpyType::kF64, array.shape).ok());
    EXPECT_TRUE(writer->Append(array.values.data(), static_cast<int64_t>(array.values.size() * 8)).ok());
  }
  EXPECT_TRUE(writer->Finish().ok());
  return path;
}

void ExpectRefused(const std::vector<NamedArray>& arrays, const std::string& reason) {
  const absl::Status status = ReadStatisticsFile(Archive(arrays)).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << status;
  EXPECT_THAT(status.message(), HasSubstr(reason));
}

TEST(StatisticsFile, RefusesWhatIsNoCovariance) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const NamedArray mu{"mu", {2}, {0, 0}}, sigma{"sigma", {2, 2}, {1, 0.5, 0.5, 1}};
  ASSERT_TRUE(ReadStatisticsFile(Archive({mu, sigma})).ok());
  ExpectRefused({mu}, "no array 'sigma'");
  ExpectRefused({sigma}, "no array 'mu'");
  ExpectRefused({mu, sigma, {"mu_s", {1}, {0}}}, "no array 'sigma_s'");
  ExpectRefused({mu, sigma, {"sigma_s", {1, 1}, {0}}}, "no array 'mu_s'");
  ExpectRefused({{"mu", {1, 2}, {0, 0}}, sigma}, "'mu': expected shape (d)");
  ExpectRefused({{"mu", {0}, {}}, {"sigma", {0, 0}, {}}}, "'mu': expected shape (d)");
  ExpectRefused({{"mu", {8193}, std::vector<double>(8193)}, sigma}, "'mu': expected shape (d)");
  ExpectRefused({mu, {"sigma", {4}, {1, 0, 0, 1}}}, "'sigma': expected shape (2, 2)");
  ExpectRefused({mu, {"sigma", {3, 3}, std::vector<double>(9)}}, "'sigma': expected shape (2, 2)");
  ExpectRefused({{"mu", {2}, {0, nan}}, sigma}, "'mu': element 1 is not finite");
  ExpectRefused({mu, {"sigma", {2, 2}, {1, nan, nan, 1}}}, "'sigma': element 1 is not finite");
  ExpectRefused({mu, {"sigma", {2, 2}, {1, 0, 0, -1}}}, "variance 1 must not be negative");
  ExpectRefused({mu, {"sigma", {2, 2}, {1, 0.5, 0.4, 1}}}, "a covariance is symmetric");
}

TEST(StatisticsFile, AveragesRounding) {
  const auto statistics = ReadStatisticsFile(Archive({{"mu", {2}, {0, 0}}, {"sigma", {2, 2}, {1, 0.5, 0.50002, 1}}}));
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  EXPECT_EQ(statistics->features.covariance[1], statistics->features.covariance[2]);
  EXPECT_NEAR(statistics->features.covariance[1], 0.50001, 1e-12);
}

TEST(StatisticsFile, TellsSamplesFromStatistics) {
  EXPECT_FALSE(*HoldsStatistics(Archive({{"arr_0", {1}, {0}}})));
  EXPECT_FALSE(*HoldsStatistics(Archive({{"mu", {1}, {0}}})));
  EXPECT_TRUE(*HoldsStatistics(Archive({{"mu", {1}, {0}}, {"sigma", {1, 1}, {0}}})));
}

TEST(StatisticsFile, NoticesADamagedByte) {
  const std::string path = Archive({{"mu", {2}, {0, 0}}, {"sigma", {2, 2}, {1, 0.5, 0.5, 1}}});
  const std::string good = ReadAll(path);
  const size_t at = good.find(std::string("\0\0\0\0\0\0\xe0\x3f", 8));  // the first 0.5
  ASSERT_NE(at, std::string::npos);
  std::string bad = good;
  bad[at] = 1;
  bad[at + 8] = 1;
  Overwrite(path, bad);
  EXPECT_EQ(ExitCodeOf(ReadStatisticsFile(path).status()), ExitCode::kBadData);
}

// 10 samples in chunks of 4, 4 and 2.
FeatureStoreOptions StoreOptions() {
  return {.key = 77, .samples = 10, .chunk_samples = 4, .feature_dim = 3, .spatial_dim = 2, .logit_dim = 1};
}

FeatureStore OpenStore(const std::string& folder, const FeatureStoreOptions& options = StoreOptions()) {
  auto store = FeatureStore::Open(PosixFileSystem(), folder, options);
  CHECK(store.ok()) << store.status().message();
  return *std::move(store);
}

FeatureChunk ChunkOf(uint32_t seed, int64_t count) {
  return {GoldenFeatures(seed, count, 3).values, GoldenFeatures(seed + 1, count, 2).values,
          GoldenFeatures(seed + 2, count, 1).values};
}

TEST(FeatureStore, ReadsWhatItWrote) {
  const std::string folder = JoinPath(EmptyFolder("store"), "features");
  FeatureStore store = OpenStore(folder);
  EXPECT_EQ(store.chunks(), 3);
  EXPECT_EQ(store.Samples(2).begin, 8);
  EXPECT_EQ(store.Samples(2).end, 10);
  EXPECT_THAT(store.Present({0, 3}), ElementsAre(0, 0, 0));
  EXPECT_EQ(store.Read(1).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(store.Write(2, ChunkOf(1, 2)).ok());
  ASSERT_TRUE(store.Write(0, ChunkOf(5, 4)).ok());

  const FeatureStore again = OpenStore(folder);
  EXPECT_THAT(again.Present({0, 3}), ElementsAre(1, 0, 1));
  EXPECT_THAT(again.Present({1, 3}), ElementsAre(0, 1));
  for (const auto& [chunk, expected] : {std::pair{0, ChunkOf(5, 4)}, {2, ChunkOf(1, 2)}}) {
    const auto content = again.Read(chunk);
    ASSERT_TRUE(content.ok()) << content.status();
    EXPECT_EQ(content->features, expected.features);
    EXPECT_EQ(content->spatial, expected.spatial);
    EXPECT_EQ(content->logits, expected.logits);
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);  // nothing temporary stays
}

TEST(FeatureStore, TrustsNoDamagedFile) {
  const std::string folder = EmptyFolder("damage");
  FeatureStore store = OpenStore(folder);
  ASSERT_TRUE(store.Write(2, ChunkOf(1, 2)).ok());
  const std::string path = JoinPath(folder, "chunk-000002.features");
  const std::string good = ReadAll(path);
  ASSERT_EQ(good.size(), ChunkStore::kHeaderBytes + 2u * 6 * 4);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] ^= 0x10;
    Overwrite(path, bad);
    EXPECT_EQ(store.Read(2).status().code(), absl::StatusCode::kDataLoss) << "byte " << i;
    EXPECT_THAT(store.Read(2).status().message(), HasSubstr("checksums do not match"));
    Overwrite(path, good.substr(0, i));
    EXPECT_EQ(store.Read(2).status().code(), absl::StatusCode::kDataLoss) << "cut at " << i;
  }
  Overwrite(path, good + "x");
  EXPECT_THAT(store.Present({0, 3}), ElementsAre(0, 0, 0));
  ASSERT_TRUE(store.Write(2, ChunkOf(1, 2)).ok());  // replaces it
  EXPECT_THAT(store.Present({0, 3}), ElementsAre(0, 0, 1));
}

TEST(FeatureStore, TrustsNoForeignFile) {
  const std::string folder = EmptyFolder("foreign");
  FeatureStore store = OpenStore(folder);
  for (int64_t chunk = 0; chunk < 3; ++chunk) ASSERT_TRUE(store.Write(chunk, ChunkOf(1, chunk == 2 ? 2 : 4)).ok());
  FeatureStoreOptions other_key = StoreOptions(), other_dims = StoreOptions(), more_samples = StoreOptions();
  other_key.key = 78;
  std::swap(other_dims.spatial_dim, other_dims.logit_dim);
  more_samples.samples = 12;
  EXPECT_THAT(OpenStore(folder, other_key).Present({0, 3}), ElementsAre(0, 0, 0));
  EXPECT_THAT(OpenStore(folder, other_key).Read(0).status().message(), HasSubstr("other settings"));
  EXPECT_THAT(OpenStore(folder, other_dims).Present({0, 3}), ElementsAre(0, 0, 0));
  // The first chunks of a longer set are the same.
  EXPECT_THAT(OpenStore(folder, more_samples).Present({0, 3}), ElementsAre(1, 1, 0));
  // A good file under another chunk's name.
  std::filesystem::copy_file(JoinPath(folder, "chunk-000001.features"), JoinPath(folder, "chunk-000000.features"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(store.Present({0, 3}), ElementsAre(0, 1, 1));
  // A link to a good file.
  std::filesystem::remove(JoinPath(folder, "chunk-000001.features"));
  std::filesystem::create_symlink("chunk-000000.features", JoinPath(folder, "chunk-000001.features"));
  EXPECT_THAT(store.Present({1, 2}), ElementsAre(0));
}

}  // namespace
}  // namespace shardit
