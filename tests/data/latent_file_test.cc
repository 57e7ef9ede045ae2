#include "data/latent_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "data/latent_file_writer.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

std::vector<float> ReadFloats(const LatentFile& file, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * file.info().sample_bytes() / 4));
  EXPECT_TRUE(file.ReadRaw(first, count, values.data()).ok());
  return values;
}

TEST(LatentFile, ReadsWhatTheWriterWrote) {
  const TempFolder dir;
  LatentFileInfo info = TestInfo(dir / "a.h5", 9);
  info.scale = 0.18215f;
  info.source = "made \n here";
  info.flipped = true;
  WriteTestFile(info);
  EXPECT_EQ(dir.Entries(), 1);
  const auto file = LatentFile::Open(info.path);
  ASSERT_TRUE(file.ok()) << file.status();
  const LatentFileInfo& read = (*file)->info();
  EXPECT_EQ(read.count, 9);
  EXPECT_EQ(read.shape, (LatentShape{2, 3, 5}));
  EXPECT_EQ(read.layout, LatentLayout::kContiguous);
  EXPECT_EQ(read.type, LatentType::kFloat32);
  EXPECT_EQ(read.scale, 0.18215f);
  EXPECT_EQ(read.classes, 7);
  EXPECT_EQ(read.source, info.source);
  EXPECT_TRUE(read.flipped);
  EXPECT_EQ(read.file_bytes, static_cast<int64_t>(std::filesystem::file_size(info.path)));
  const std::vector<float> values = ReadFloats(**file, 3, 4);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*file)->labels()[static_cast<size_t>(3 + i)], TestLabel(3 + i));
    for (int64_t e = 0; e < 30; ++e) EXPECT_EQ(values[static_cast<size_t>(i * 30 + e)], TestValue(3 + i, e));
  }
}

TEST(LatentFile, ReadsFilesOfH5py) {
  const auto minimal = LatentFile::Open(FixturePath("h5py_minimal.h5"));
  ASSERT_TRUE(minimal.ok()) << minimal.status();
  EXPECT_EQ((*minimal)->info().shape, (LatentShape{1, 4, 4}));
  EXPECT_EQ((*minimal)->info().scale, 1.0f);
  EXPECT_EQ((*minimal)->info().classes, 0);
  EXPECT_EQ((*minimal)->labels(), (std::vector<int32_t>{3, 1, 4, 1, 5}));
  EXPECT_EQ(ReadFloats(**minimal, 2, 1)[7], 207.0f);

  const auto chunked = LatentFile::Open(FixturePath("h5py_half_chunked.h5"));
  ASSERT_TRUE(chunked.ok()) << chunked.status();
  EXPECT_EQ((*chunked)->info().layout, LatentLayout::kChunked);
  EXPECT_EQ((*chunked)->info().type, LatentType::kFloat16);
  EXPECT_EQ((*chunked)->info().scale, 0.5f);
  EXPECT_EQ((*chunked)->info().classes, 6);
  EXPECT_EQ((*chunked)->info().source, "");  // h5py strings are of variable length
  EXPECT_TRUE((*chunked)->info().flipped);
  EXPECT_EQ((*chunked)->labels(), (std::vector<int32_t>{3, 1, 4, 1, 5}));
  std::vector<uint16_t> half(3 * 16);
  ASSERT_TRUE((*chunked)->ReadRaw(1, 3, half.data()).ok());
  EXPECT_EQ(half[0], 0x5640);       // 100
  EXPECT_EQ(half[2 * 16], 0x5cb0);  // 300

  const auto moments = LatentFile::Open(FixturePath("h5py_moments.h5"));
  ASSERT_TRUE(moments.ok()) << moments.status();
  EXPECT_EQ((*moments)->info().kind, LatentKind::kMoments);
  EXPECT_EQ((*moments)->info().shape, (LatentShape{1, 4, 4}));
  EXPECT_EQ((*moments)->info().source, "fixed");
  EXPECT_EQ(ReadFloats(**moments, 4, 1)[16 + 1], 401.0f / 64);
}

TEST(LatentFile, MemoryHoldsTheSameBytesForEveryLayout) {
  const TempFolder dir;
  BuildHdf5(dir / "compact.h5", [](hid_t file) {
    AddArray(file, "latents", {{3, 1, 2, 2}, H5T_IEEE_F32LE, {}, [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }});
    AddArray(file, "labels", {{3}, H5T_STD_U8BE});
  });
  for (const std::string& path :
       {FixturePath("h5py_minimal.h5"), FixturePath("h5py_half_chunked.h5"), dir / "compact.h5"}) {
    auto file = LatentFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const int64_t count = (*file)->info().count, bytes = (*file)->info().sample_bytes();
    std::string before(static_cast<size_t>(count * bytes), 'x'), after = before;
    ASSERT_TRUE((*file)->ReadRaw(0, count, before.data()).ok());
    EXPECT_EQ((*file)->InMemory(0) != nullptr, (*file)->info().layout == LatentLayout::kCompact);
    ASSERT_TRUE((*file)->LoadIntoMemory().ok());
    ASSERT_TRUE((*file)->LoadIntoMemory().ok());
    for (int64_t i = 0; i < count; ++i) ASSERT_TRUE((*file)->ReadRaw(i, 1, after.data() + i * bytes).ok());
    EXPECT_EQ(before, after);
    EXPECT_EQ(std::memcmp((*file)->InMemory(1), before.data() + bytes, static_cast<size_t>(bytes)), 0);
  }
}

// Chunks that cut every dim, with partial ones at the ends; every filter; both generations of the format's indexes.
TEST(LatentFile, ReadsChunksOfAnyShape) {
  const TempFolder dir;
  const auto none = [](hid_t) {};
  const auto all = [](hid_t creation) {
    H5Pset_shuffle(creation);
    H5Pset_deflate(creation, 6);
    H5Pset_fletcher32(creation);
  };
  const auto sum_inside = [](hid_t creation) {
    H5Pset_fletcher32(creation);
    H5Pset_deflate(creation, 6);
  };
  for (const std::vector<hsize_t>& chunk :
       {std::vector<hsize_t>{2, 1, 2, 3}, std::vector<hsize_t>{5, 2, 3, 5}, std::vector<hsize_t>{1, 2, 1, 5}}) {
    for (const std::function<void(hid_t)>& filters : std::vector<std::function<void(hid_t)>>{none, all, sum_inside}) {
      for (const auto version : {H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST}) {
        std::vector<float> values(5 * 30);
        std::iota(values.begin(), values.end(), 0.5f);
        const std::vector<int16_t> labels = {3, 1, 4, 1, 5};
        {
          const Hdf5Lock lock;
          const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose), access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
          H5Pset_userblock(creation.get(), 512);
          H5Pset_libver_bounds(access.get(), version, H5F_LIBVER_LATEST);
          const Hdf5Handle file(H5Fcreate((dir / "a.h5").c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
                                H5Fclose);
          AddArray(file.get(), "latents", {{5, 2, 3, 5}, H5T_IEEE_F32LE, chunk, filters});
          AddArray(file.get(), "labels", {{5}, H5T_STD_I16BE, {chunk[0]}, filters});
          const Hdf5Handle samples(H5Dopen2(file.get(), "latents", H5P_DEFAULT), H5Dclose);
          const Hdf5Handle classes(H5Dopen2(file.get(), "labels", H5P_DEFAULT), H5Dclose);
          H5Dwrite(samples.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
          H5Dwrite(classes.get(), H5T_NATIVE_INT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, labels.data());
        }
        const auto file = LatentFile::Open(dir / "a.h5");
        ASSERT_TRUE(file.ok()) << file.status();
        EXPECT_EQ((*file)->labels(), (std::vector<int32_t>{3, 1, 4, 1, 5}));
        EXPECT_EQ(ReadFloats(**file, 0, 5), values);
        EXPECT_EQ(ReadFloats(**file, 3, 1), std::vector<float>(values.begin() + 90, values.begin() + 120));
      }
    }
  }
}

// Chunked files are read by one thread at a time, contiguous ones by all: both from several threads.
TEST(LatentFile, ThreadsReadAtOnce) {
  for (const char* name : {"h5py_minimal.h5", "h5py_half_chunked.h5"}) {
    const auto file = LatentFile::Open(FixturePath(name));
    ASSERT_TRUE(file.ok());
    const auto bytes = static_cast<size_t>((*file)->info().sample_bytes());
    std::vector<std::string> expected(5, std::string(bytes, 0));
    for (int64_t i = 0; i < 5; ++i) ASSERT_TRUE((*file)->ReadRaw(i, 1, expected[static_cast<size_t>(i)].data()).ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        std::string got(bytes, 0);
        for (int64_t i = 0; i < 100; ++i) {
          EXPECT_TRUE((*file)->ReadRaw(i % 5, 1, got.data()).ok());
          EXPECT_EQ(got, expected[static_cast<size_t>(i % 5)]);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(LatentFile, FileThatShrinksIsAnError) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a.h5", 9));
  const auto file = LatentFile::Open(dir / "a.h5");
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((dir / "a.h5").c_str(), 1200), 0);
  std::vector<float> values(9 * 30);
  EXPECT_EQ((*file)->ReadRaw(0, 9, values.data()).code(), absl::StatusCode::kDataLoss);
}

TEST(LatentFileWriter, TargetIsOldOrNew) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a.h5", 3));
  const std::string old = ReadBytes(dir / "a.h5");
  std::vector<float> values(30 * 2);
  const std::vector<int32_t> labels = {1, 7};
  {
    auto writer = LatentFileWriter::Create(TestInfo(dir / "a.h5", 2));
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ(dir.Entries(), 2);
    ASSERT_TRUE((*writer)->Append(values.data(), labels.data(), 1).ok());
    EXPECT_EQ((*writer)->Append(values.data(), labels.data() + 1, 1).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*writer)->Append(values.data(), labels.data(), 2).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*writer)->Commit().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(dir.Entries(), 1);
  EXPECT_EQ(ReadBytes(dir / "a.h5"), old);
  EXPECT_FALSE(LatentFileWriter::Create(TestInfo(dir / "none/a.h5", 2)).ok());
  EXPECT_FALSE(LatentFileWriter::Create(TestInfo(dir / "b.h5", 0)).ok());
  EXPECT_FALSE(LatentFileWriter::Create(TestInfo(dir / "b.h5", int64_t{1} << 62)).ok());
  EXPECT_EQ(dir.Entries(), 1);
}

TEST(LatentFileWriter, WritesHalfAndMoments) {
  const TempFolder dir;
  LatentFileInfo info = TestInfo(dir / "a.h5", 4);
  info.kind = LatentKind::kMoments;
  info.type = LatentType::kFloat16;
  WriteTestFile(info);
  const auto file = LatentFile::Open(info.path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->info().kind, LatentKind::kMoments);
  EXPECT_EQ((*file)->info().type, LatentType::kFloat16);
  EXPECT_EQ((*file)->info().shape, info.shape);
  EXPECT_EQ((*file)->info().sample_bytes(), 2 * 30 * 2);
}

}  // namespace
}  // namespace shardit
