#include "data/describe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "absl/strings/match.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

TEST(DescribeData, CountsClassesOverFiles) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a.h5", 8), 0);
  WriteTestFile(TestInfo(dir / "b.h5", 5), 8);
  const auto info = DescribeData(dir / "*.h5");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->count, 13);
  EXPECT_EQ(info->files.size(), 2u);
  EXPECT_EQ(info->shape, (LatentShape{2, 3, 5}));
  EXPECT_EQ(info->max_label, 6);
  EXPECT_EQ(info->class_counts, (std::vector<int64_t>{2, 2, 2, 2, 2, 2, 1}));
  const auto h5py = DescribeData(FixturePath("h5py_minimal.h5"));
  ASSERT_TRUE(h5py.ok());
  EXPECT_EQ(h5py->classes, 0);
  EXPECT_EQ(h5py->class_counts, (std::vector<int64_t>{0, 2, 0, 1, 1, 1}));
  EXPECT_STREQ(TypeName(h5py->files[0].type), "float32");
  EXPECT_STREQ(KindName(h5py->files[0].kind), "latents");
  EXPECT_STREQ(LayoutName(h5py->files[0].layout), "contiguous");
}

TEST(VerifyData, AcceptsGoodFiles) {
  for (const char* name : {"h5py_minimal.h5", "h5py_half_chunked.h5", "h5py_moments.h5"}) {
    const absl::Status status = VerifyData(FixturePath(name));
    EXPECT_TRUE(status.ok()) << status;
  }
}

// One value in the last sample of the second of two files.
void ExpectValueRefused(LatentKind kind, LatentType type, int64_t element, float value, const std::string& what) {
  const TempFolder dir;
  LatentFileInfo info = TestInfo(dir / "a.h5", 3);
  info.kind = kind;
  info.type = type;
  WriteTestFile(info);
  ASSERT_TRUE(VerifyData(dir / "*.h5").ok());
  info.path = dir / "b.h5";
  auto writer = LatentFileWriter::Create(info);
  ASSERT_TRUE(writer.ok());
  std::vector<float> values(static_cast<size_t>(3 * 30 * (kind == LatentKind::kMoments ? 2 : 1)));
  values[values.size() / 3 * 2 + static_cast<size_t>(element)] = value;
  const std::vector<int32_t> labels(3);
  ASSERT_TRUE((*writer)->Append(values.data(), labels.data(), 3).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  const absl::Status status = VerifyData(dir / "*.h5");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "b.h5")) << status;
}

TEST(VerifyData, NamesTheValueThatIsNotFinite) {
  for (const LatentType type : {LatentType::kFloat32, LatentType::kFloat16}) {
    ExpectValueRefused(LatentKind::kLatents, type, 29, NAN, "latents of sample 2, element 29");
    ExpectValueRefused(LatentKind::kLatents, type, 0, -INFINITY, "latents of sample 2, element 0");
    ExpectValueRefused(LatentKind::kMoments, type, 30, -0.5f, "moments of sample 2, element 30");
    ExpectValueRefused(LatentKind::kMoments, type, 59, INFINITY, "moments of sample 2, element 59");
  }
}

TEST(VerifyData, NamesDamagedChunks) {
  const TempFolder dir;
  BuildHdf5(dir / "a.h5", [](hid_t file) {
    AddArray(file, "latents", {{8, 1, 16, 16}, H5T_IEEE_F32LE, {4, 1, 16, 16}, [](hid_t p) { H5Pset_fletcher32(p); }});
    AddArray(file, "labels", {{8}, H5T_STD_I64LE});
  });
  ASSERT_TRUE(VerifyData(dir / "a.h5").ok());
  std::string bytes = ReadBytes(dir / "a.h5");
  const size_t zeros = bytes.rfind(std::string(4096, '\0'));  // within a chunk
  ASSERT_NE(zeros, std::string::npos);
  bytes[zeros + 2000] = 1;
  WriteBytes(dir / "a.h5", bytes);
  const absl::Status status = VerifyData(dir / "a.h5");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "latents: chunk 1: has another checksum")) << status;
}

TEST(VerifyData, HoldsEveryFileToTheClassesThatAnotherStates) {
  const TempFolder dir;
  WriteTestFile(TestInfo(dir / "a.h5", 3));
  LatentFileInfo info = TestInfo(dir / "b.h5", 1);
  info.classes = 0;
  auto writer = LatentFileWriter::Create(info);
  ASSERT_TRUE(writer.ok());
  const std::vector<float> values(30);
  const int32_t label = 9;
  ASSERT_TRUE((*writer)->Append(values.data(), &label, 1).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  const absl::Status status = VerifyData(dir / "*.h5");
  EXPECT_TRUE(absl::StrContains(status.message(), "b.h5: labels[0]: expected a class in [0, 7)")) << status;
}

}  // namespace
}  // namespace shardit
