#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string>

#include "core/base/math.h"
#include "data/formats/npz.h"

namespace shardit {
namespace {

std::string Golden(const std::string& name) { return JoinPath(SHARDIT_SOURCE_DIR "/tests/data/formats_golden", name); }

std::vector<double> ReadAll(NpyArray& array) {
  std::vector<double> values(static_cast<size_t>(array.header().elements()));
  EXPECT_TRUE(array.ReadAsDouble(0, array.header().elements(), values.data()).ok());
  return values;
}

class NpzTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/shardit_npz_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root_ = pattern;
    path_ = JoinPath(root_, "x.npz");
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(PosixFileSystem(), root_).ok()); }
  // Thousands of these are written: no fsync, and never over an existing file (which some file systems flush).
  void Put(const std::string& content) {
    PosixFileSystem().RemoveFile(path_).IgnoreError();
    const auto file = PosixFileSystem().Create(path_);
    ASSERT_TRUE((*file)->WriteAt(0, content.data(), static_cast<int64_t>(content.size())).ok());
  }

  std::string root_, path_;
};

TEST_F(NpzTest, ReadsWhatNumpyStored) {
  const auto reader = NpzReader::Open(Golden("numpy_stored.npz"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->names(), (std::vector<std::string>{"arr_0", "mu", "n"}));
  auto images = reader->Array("arr_0");
  ASSERT_TRUE(images.ok()) << images.status();
  EXPECT_EQ(images->type(), NpyType::kU8);
  EXPECT_EQ(images->shape(), (std::vector<int64_t>{2, 3, 4, 1}));
  uint8_t bytes[4];
  ASSERT_TRUE(images->Read(10, 4, bytes).ok());
  EXPECT_EQ(bytes[3], 13);
  EXPECT_TRUE(images->Verify().ok());
  auto mu = reader->Array("mu");
  EXPECT_EQ(ReadAll(*mu), (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  auto n = reader->Array("n");
  EXPECT_TRUE(n->shape().empty());
  EXPECT_EQ(ReadAll(*n), std::vector<double>{7});
  EXPECT_EQ(reader->Array("sigma").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(NpzTest, ReadsWhatNumpyCompressed) {
  const auto reader = NpzReader::Open(Golden("numpy_deflated.npz"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto images = reader->Array("arr_0");
  ASSERT_TRUE(images.ok()) << images.status();
  EXPECT_EQ(images->shape(), (std::vector<int64_t>{400, 9, 16, 1}));
  const std::vector<double> values = ReadAll(*images);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t n = i / 144, row = i / 16 % 9, column = i % 16;
    ASSERT_EQ(values[i], static_cast<double>(n % 2 * 12 + row % 3 * 4 + column % 4)) << i;
  }
  uint8_t early[2];  // going back starts the inflation anew
  ASSERT_TRUE(images->Read(17, 2, early).ok());
  EXPECT_EQ(early[0], 5);
  EXPECT_TRUE(images->Verify().ok());
  auto half = reader->Array("half");
  EXPECT_EQ(ReadAll(*half), (std::vector<double>{1, 0.5, -2}));
}

TEST_F(NpzTest, ReadsPlainNpy) {
  const auto reader = NpzReader::Open(Golden("numpy.npy"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto array = reader->Array("arr_0");
  ASSERT_TRUE(array.ok()) << array.status();
  EXPECT_EQ(array->shape(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(ReadAll(*array), (std::vector<double>{1, 2, 3, 4, 5, 6}));
}

TEST_F(NpzTest, RefusesObjectsAndForeignLayouts) {
  const auto reader = NpzReader::Open(Golden("numpy_refused.npz"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto message = [&](const char* name) { return std::string(reader->Array(name).status().message()); };
  EXPECT_NE(message("objects").find("'|O'"), std::string::npos) << message("objects");
  EXPECT_NE(message("big_endian").find("'>f4'"), std::string::npos) << message("big_endian");
  EXPECT_NE(message("fortran").find("fortran_order"), std::string::npos) << message("fortran");
  EXPECT_NE(message("records").find("structured"), std::string::npos) << message("records");
}

TEST_F(NpzTest, HeaderIsNumpysToTheByte) {
  const std::string file = ReadWholeFile(Golden("numpy.npy"), 1 << 20).value();
  const std::string header = FormatNpyHeader(NpyType::kF32, {2, 3});
  EXPECT_EQ(header, file.substr(0, header.size()));
  EXPECT_EQ(header.size() % 64, 0u);
  const auto parsed = ParseNpyHeader(FormatNpyHeader(NpyType::kU8, {5}));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->shape, std::vector<int64_t>{5});
  EXPECT_TRUE(ParseNpyHeader(FormatNpyHeader(NpyType::kF64, {})).ok());
}

TEST_F(NpzTest, WritesInPiecesAndReadsBack) {
  std::vector<uint8_t> pixels(3 * 8 * 8 * 3);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  const double mu[2] = {0.25, -4};
  {
    auto writer = NpzWriter::Create(PosixFileSystem(), path_);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->BeginArray("arr_0", NpyType::kU8, {3, 8, 8, 3}).ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(writer->Append(pixels.data() + i * 192, 192).ok());
    ASSERT_TRUE(writer->BeginArray("mu", NpyType::kF64, {2}).ok());
    ASSERT_TRUE(writer->Append(mu, sizeof(mu)).ok());
    EXPECT_EQ(KindOfPath(path_), PathKind::kMissing);
    ASSERT_TRUE(writer->Finish().ok());
  }
  EXPECT_EQ(ListFolder(root_)->size(), 1u);
  const auto reader = NpzReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto images = reader->Array("arr_0");
  ASSERT_TRUE(images.ok()) << images.status();
  std::vector<uint8_t> back(pixels.size());
  ASSERT_TRUE(images->Read(0, images->header().data_bytes, back.data()).ok());
  EXPECT_EQ(back, pixels);
  EXPECT_TRUE(images->Verify().ok());
  auto read_mu = reader->Array("mu");
  EXPECT_EQ(ReadAll(*read_mu), (std::vector<double>{0.25, -4}));

  // A flipped bit in the data is found.
  std::string content = ReadWholeFile(path_, 1 << 20).value();
  content[300] = static_cast<char>(content[300] ^ 4);
  Put(content);
  EXPECT_EQ(NpzReader::Open(path_)->Array("arr_0")->Verify().code(), absl::StatusCode::kDataLoss);
}

TEST_F(NpzTest, UnfinishedWriterLeavesNothing) {
  {
    auto writer = NpzWriter::Create(PosixFileSystem(), path_);
    ASSERT_TRUE(writer->BeginArray("arr_0", NpyType::kU8, {3}).ok());
    ASSERT_TRUE(writer->Append("ab", 2).ok());
  }
  EXPECT_TRUE(ListFolder(root_)->empty());
}

// Swallows data, keeps the records: enough to look at an archive above 4 GiB without writing one.
class RecordKeeper final : public FileSystem {
 public:
  std::string tail;
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string&) override {
    return std::make_unique<File>(&tail);
  }
  absl::Status Rename(const std::string&, const std::string&) override { return absl::OkStatus(); }
  absl::Status Exchange(const std::string&, const std::string&) override { return absl::OkStatus(); }
  absl::Status SyncFolder(const std::string&) override { return absl::OkStatus(); }
  absl::Status MakeFolder(const std::string&) override { return absl::OkStatus(); }
  absl::Status RemoveFile(const std::string&) override { return absl::OkStatus(); }
  absl::Status RemoveEmptyFolder(const std::string&) override { return absl::OkStatus(); }

 private:
  struct File final : WritableFile {
    explicit File(std::string* tail) : tail(tail) {}
    absl::Status WriteAt(int64_t, const void* data, int64_t bytes) override {
      if (bytes < 1000) tail->append(static_cast<const char*>(data), static_cast<size_t>(bytes));
      return absl::OkStatus();
    }
    absl::Status Sync() override { return absl::OkStatus(); }
    absl::Status Close() override { return absl::OkStatus(); }
    std::string* tail;
  };
};

TEST_F(NpzTest, SizesAbove4GiBAreWrittenIn64Bits) {
  // 5,000 x 1 MiB: the size field needs 33 bits. The checksum is the only work.
  RecordKeeper files;
  auto zip = ZipWriter::Create(files, "x");
  const int64_t bytes = int64_t{5000} << 20;
  ASSERT_TRUE(zip->BeginEntry("arr_0.npy", bytes).ok());
  const std::string expected(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  EXPECT_NE(files.tail.find(expected + expected), std::string::npos);
}

TEST_F(NpzTest, HostileHeadersAreRefused) {
  const auto with = [](const std::string& dictionary) {
    std::string header("\x93NUMPY\x01\x00", 8);
    const uint16_t length = static_cast<uint16_t>(dictionary.size());
    header.append(reinterpret_cast<const char*>(&length), 2);
    return header + dictionary;
  };
  ASSERT_TRUE(ParseNpyHeader(with("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }")).ok());
  ASSERT_TRUE(ParseNpyHeader(with("{\"shape\":(), \"descr\":'<u1','fortran_order':False}\n")).ok());
  for (const char* bad : {"", "{", "{}", "[]", "{'descr': '<f4', 'fortran_order': False}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
                          "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
                          "{'descr': '', 'fortran_order': False, 'shape': ()}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 'y'}",
                          "{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}",
                          "{'descr': '<f4, 'fortran_order': False, 'shape': ()}",
                          "{'descr': '<f4', 'fortran_order': False, 'shape': ()} import os"}) {
    EXPECT_FALSE(ParseNpyHeader(with(bad)).ok()) << bad;
  }
  EXPECT_FALSE(ParseNpyHeader("\x93NUMPY").ok());
  EXPECT_FALSE(ParseNpyHeader(absl::string_view("\x93NUMPY\x01\x00\xff\xff{'descr'", 20)).ok());
  EXPECT_FALSE(ParseNpyHeader(absl::string_view("\x93NUMPY\x09\x00\x02\x00{}..........", 20)).ok());
}

// Damage anywhere: an error, or arrays that still lie inside the file. Never a crash, never a large allocation.
TEST_F(NpzTest, DamagedArchivesAreSurvived) {
  std::mt19937 random(3);
  for (const char* name : {"numpy_stored.npz", "numpy_deflated.npz"}) {
    const std::string good = ReadWholeFile(Golden(name), 1 << 20).value();
    for (int round = 0; round < 1500; ++round) {
      std::string mutant = good;
      if (round % 3 == 0) mutant.resize(random() % good.size());
      for (unsigned k = 0; k < 1 + random() % 4 && !mutant.empty(); ++k) {
        // Half of the flips hit the directory at the end, where the structure is.
        const size_t span = random() % 2 != 0 ? std::min<size_t>(mutant.size(), 400) : mutant.size();
        mutant[mutant.size() - 1 - random() % span] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
      }
      Put(mutant);
      const auto reader = NpzReader::Open(path_);
      if (!reader.ok()) continue;
      for (const std::string& array_name : reader->names()) {
        auto array = reader->Array(array_name);
        if (!array.ok()) continue;
        ASSERT_LE(array->header().data_bytes, 1032 * (int64_t{1} << 20));
        array->Verify().IgnoreError();
      }
    }
  }
}

// Many names for one deflated stream: what a small file holds would have no bound.
TEST_F(NpzTest, EntriesThatShareBytesAreRefused) {
  std::string file = ReadWholeFile(Golden("numpy_stored.npz"), 1 << 20).value();
  ASSERT_TRUE(NpzReader::Open(Golden("numpy_stored.npz")).ok());
  const size_t first = file.find("PK\x01\x02"), second = file.find("PK\x01\x02", first + 4);
  ASSERT_NE(second, std::string::npos);
  // The second record gets the place and the sizes of the first.
  file.replace(second + 42, 4, file, first + 42, 4);
  file.replace(second + 16, 12, file, first + 16, 12);
  Put(file);
  const auto reader = NpzReader::Open(path_);
  ASSERT_FALSE(reader.ok());
  EXPECT_NE(std::string(reader.status().message()).find("overlap"), std::string::npos) << reader.status();
}

TEST_F(NpzTest, ArchiveThatClaimsTooMuchIsRefused) {
  std::string file = ReadWholeFile(Golden("numpy_deflated.npz"), 1 << 20).value();
  // Both the 32-bit size in the central record of arr_0 and nothing else: a claim of 3 GiB from a few hundred bytes.
  const size_t central = file.find("PK\x01\x02");
  ASSERT_NE(central, std::string::npos);
  const uint32_t claim = 3u << 30;
  std::memcpy(file.data() + central + 24, &claim, 4);
  Put(file);
  const auto reader = NpzReader::Open(path_);
  ASSERT_FALSE(reader.ok());
  EXPECT_NE(std::string(reader.status().message()).find("cannot come from"), std::string::npos) << reader.status();
}

}  // namespace
}  // namespace shardit
