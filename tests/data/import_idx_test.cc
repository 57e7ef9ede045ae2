#include "data/import_idx.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <vector>

#include "absl/strings/match.h"
#include "data/describe.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

std::string BigEndian(uint32_t word) {
  return {static_cast<char>(word >> 24), static_cast<char>(word >> 16), static_cast<char>(word >> 8),
          static_cast<char>(word)};
}

std::string Images(uint32_t count, uint32_t rows, uint32_t columns) {
  std::string bytes = BigEndian(0x803) + BigEndian(count) + BigEndian(rows) + BigEndian(columns);
  for (uint32_t i = 0; i < count * rows * columns; ++i) bytes.push_back(static_cast<char>(i * 7));
  return bytes;
}

std::string Labels(const std::vector<char>& labels) {
  return BigEndian(0x801) + BigEndian(static_cast<uint32_t>(labels.size())) + std::string(labels.begin(), labels.end());
}

std::string Gzip(const std::string& bytes) {
  const TempFolder dir;
  gzFile file = gzopen((dir / "x.gz").c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return ReadBytes(dir / "x.gz");
}

class ImportIdxTest : public testing::Test {
 protected:
  absl::StatusOr<IdxImportResult> Import(const std::string& images, const std::string& labels, int64_t side = 32) {
    WriteBytes(dir_ / "images", images);
    WriteBytes(dir_ / "labels", labels);
    return ImportIdx({dir_ / "images", dir_ / "labels", dir_ / "out.h5", side, 10});
  }
  void ExpectRefused(const std::string& images, const std::string& labels, const std::string& what) {
    const absl::Status status = Import(images, labels).status();
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status << "\n  lacks: " << what;
    EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
    EXPECT_EQ(dir_.Entries(), 2) << "something was left behind";
  }
  TempFolder dir_;
};

TEST_F(ImportIdxTest, PadsAndMapsPixels) {
  for (const bool gzip : {false, true}) {
    const std::string images = Images(3, 28, 27), labels = Labels({9, 0, 4});
    const auto result = Import(gzip ? Gzip(images) : images, gzip ? Gzip(labels) : labels);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->count, 3);
    EXPECT_EQ(result->columns, 27);
    EXPECT_EQ(dir_.Entries(), 3);
    const auto file = LatentFile::Open(dir_ / "out.h5");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->info().shape, (LatentShape{1, 32, 32}));
    EXPECT_EQ((*file)->info().classes, 10);
    EXPECT_EQ((*file)->info().source, "idx images");
    EXPECT_EQ((*file)->labels(), (std::vector<int32_t>{9, 0, 4}));
    std::vector<float> values(3 * 1024);
    ASSERT_TRUE((*file)->ReadRaw(0, 3, values.data()).ok());
    for (int i = 0; i < 3; ++i) {
      for (int row = 0; row < 32; ++row) {
        for (int column = 0; column < 32; ++column) {
          const bool inside = row >= 2 && row < 30 && column >= 2 && column < 29;
          const int pixel = inside ? ((i * 28 + row - 2) * 27 + column - 2) * 7 % 256 : 0;
          ASSERT_EQ(values[(i * 32 + row) * 32 + column], static_cast<float>(pixel) / 127.5f - 1.0f);
        }
      }
    }
  }
}

TEST_F(ImportIdxTest, RefusesHostileFiles) {
  const std::string images = Images(3, 28, 28), labels = Labels({9, 0, 4});
  ExpectRefused(labels, images, "magic number: expected 0x00000803, got 0x00000801");
  ExpectRefused(images, images, "magic number: expected 0x00000801, got 0x00000803");
  ExpectRefused("", labels, "header");
  ExpectRefused(images.substr(0, 15), labels, "header");
  ExpectRefused(images.substr(0, images.size() - 1), labels, "image 2: the file ends");
  ExpectRefused(images + "x", labels, "no more bytes");
  ExpectRefused(images, labels + "x", "no more bytes");
  ExpectRefused(images, labels.substr(0, 10), "labels: the file ends");
  ExpectRefused(images, Labels({9, 0}), "expected 3 labels");
  ExpectRefused(images, Labels({9, 0, 10}), "label 2: expected a class in [0, 10), got 10");
  ExpectRefused(Images(3, 33, 28), labels, "33 x 28");
  ExpectRefused(Images(3, 16, 28), labels, "16 x 28");
  ExpectRefused(Images(0, 28, 28), Labels({}), "at least one item");
  const std::string huge = BigEndian(0x803) + BigEndian(0xffffffff) + BigEndian(28) + BigEndian(28);
  ExpectRefused(huge, labels, "4294967295 images");
  EXPECT_EQ(ImportIdx({dir_ / "none", dir_ / "labels", dir_ / "out.h5"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ImportIdx({"/dev/zero", dir_ / "labels", dir_ / "out.h5"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ImportIdxTest, FindsDamagedGzip) {
  const std::string images = Gzip(Images(3, 28, 28)), labels = Gzip(Labels({9, 0, 4}));
  for (size_t bytes = 0; bytes < images.size(); bytes += 37) {
    ExpectRefused(images.substr(0, bytes), labels, bytes < 2 ? "header" : "fetch it again");
  }
  ExpectRefused(images.substr(0, images.size() - 1), labels, "fetch it again");
  std::string flipped = images;
  flipped[flipped.size() - 6] ^= 1;  // in the checksum
  ExpectRefused(flipped, labels, "images");
}

TEST_F(ImportIdxTest, KeepsTheOldFileOnFailure) {
  ASSERT_TRUE(Import(Images(3, 28, 28), Labels({9, 0, 4})).ok());
  const std::string old = ReadBytes(dir_ / "out.h5");
  ASSERT_FALSE(Import(Images(3, 28, 28) + "x", Labels({1, 1, 1})).ok());
  EXPECT_EQ(ReadBytes(dir_ / "out.h5"), old);
}

}  // namespace
}  // namespace shardit
