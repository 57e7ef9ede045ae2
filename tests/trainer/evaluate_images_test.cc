// Sets of images, wherever they come from: npz archives, folders, latent files; and what of them is refused.
#include <string>
#include <vector>

#include "core/base/file.h"
#include "data/formats/npz.h"
#include "data/formats/png.h"
#include "data/latent_file_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/evaluate/image_source.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ImageSourceTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return JoinPath(folder_.path(), name); }

  // Image i is filled with the bytes first + i.
  void WriteNpz(const std::string& name, const std::vector<int64_t>& shape, uint8_t first,
                const std::vector<int64_t>& labels = {}, NpyType type = NpyType::kU8) {
    auto npz = NpzWriter::Create(PosixFileSystem(), Path(name));
    ASSERT_TRUE(npz.ok()) << npz.status();
    ASSERT_TRUE(npz->BeginArray("arr_0", type, shape).ok());
    int64_t bytes = ItemBytes(type);
    for (const int64_t dim : shape) bytes *= dim;
    std::vector<uint8_t> data(static_cast<size_t>(bytes));
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<uint8_t>(first + i / (data.size() / static_cast<size_t>(shape[0])));
    }
    ASSERT_TRUE(npz->Append(data.data(), bytes).ok());
    if (!labels.empty()) {
      ASSERT_TRUE(npz->BeginArray("arr_1", NpyType::kI64, {static_cast<int64_t>(labels.size())}).ok());
      ASSERT_TRUE(npz->Append(labels.data(), static_cast<int64_t>(labels.size() * 8)).ok());
    }
    ASSERT_TRUE(npz->Finish().ok());
  }

  void WriteLatents(const std::string& name, int64_t channels, const std::vector<float>& values, int64_t count) {
    LatentFileInfo info;
    info.path = Path(name);
    info.count = count;
    info.shape = {channels, 1, 2};
    info.classes = 7;
    auto writer = LatentFileWriter::Create(info);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<int32_t> labels(static_cast<size_t>(count), 5);
    ASSERT_TRUE((*writer)->Append(values.data(), labels.data(), count).ok());
    ASSERT_TRUE((*writer)->Commit().ok());
  }

  std::vector<uint8_t> Read(ImageSource& source, int64_t first, int64_t count) {
    std::vector<uint8_t> pixels(static_cast<size_t>(source.shape().bytes() / source.shape().count * count));
    const absl::Status status = source.Read(first, pixels);
    EXPECT_TRUE(status.ok()) << status;
    return pixels;
  }

  std::string Refusal(const std::string& name) { return std::string(OpenImageSource(Path(name)).status().message()); }

  TempFolder folder_;
};

TEST_F(ImageSourceTest, NpzGivesImagesAndLabels) {
  WriteNpz("a.npz", {4, 1, 2, 3}, 10, {3, 1, 4, 1});
  auto source = OpenImageSource(Path("a.npz"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->shape().count, 4);
  EXPECT_EQ((*source)->shape().width, 2);
  EXPECT_EQ((*source)->shape().channels, 3);
  EXPECT_THAT((*source)->labels(), ElementsAre(3, 1, 4, 1));
  EXPECT_THAT(Read(**source, 1, 2), ElementsAre(11, 11, 11, 11, 11, 11, 12, 12, 12, 12, 12, 12));
  const auto two = FirstImages(*std::move(source), 2);
  EXPECT_EQ(two->shape().count, 2);
  EXPECT_THAT(two->labels(), ElementsAre(3, 1));
  EXPECT_DEATH(Read(*two, 1, 2), "FirstImages|ImageSource");
}

TEST_F(ImageSourceTest, NpzIsRefusedByRule) {
  WriteNpz("rank.npz", {4, 2, 3}, 0);
  WriteNpz("channels.npz", {4, 1, 2, 4}, 0);
  WriteNpz("type.npz", {4, 1, 2, 3}, 0, {}, NpyType::kF32);
  WriteNpz("negative.npz", {2, 1, 2, 3}, 0, {1, -1});
  WriteNpz("labels.npz", {2, 1, 2, 3}, 0, {1, 1, 1});
  EXPECT_THAT(Refusal("rank.npz"), HasSubstr("got |u1 of shape (4, 2, 3)"));
  EXPECT_THAT(Refusal("channels.npz"), HasSubstr("(4, 1, 2, 4)"));
  EXPECT_THAT(Refusal("type.npz"), HasSubstr("got <f4"));
  EXPECT_THAT(Refusal("negative.npz"), HasSubstr("label -1"));
  EXPECT_THAT((*OpenImageSource(Path("labels.npz")))->labels(), IsEmpty());  // of something else
  EXPECT_THAT(Refusal("missing.npz"), HasSubstr("missing.npz"));
  EXPECT_THAT(Refusal("a.txt"), HasSubstr("expected images"));
}

TEST_F(ImageSourceTest, FolderOfPngIsReadInNameOrderAndGreyBecomesRgb) {
  ASSERT_TRUE(WritePng(PosixFileSystem(), Path("b.png"), Image{1, 2, 3, {1, 2, 3, 4, 5, 6}}).ok());
  ASSERT_TRUE(WritePng(PosixFileSystem(), Path("a.png"), Image{1, 2, 1, {7, 8}}).ok());
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), Path("notes.txt"), "no image").ok());
  auto source = OpenImageSource(folder_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->shape().count, 2);
  EXPECT_THAT(Read(**source, 0, 2), ElementsAre(7, 7, 7, 8, 8, 8, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT((*source)->labels(), IsEmpty());

  ASSERT_TRUE(WritePng(PosixFileSystem(), Path("c.png"), Image{2, 1, 1, {7, 8}}).ok());
  EXPECT_THAT(Refusal(""), HasSubstr("c.png"));
  WriteNpz("d.npz", {1, 1, 2, 3}, 0);
  EXPECT_THAT(Refusal(""), HasSubstr("3 and 1 of them"));
}

TEST_F(ImageSourceTest, FolderOfNpzIsOneSet) {
  WriteNpz("1.npz", {2, 1, 1, 1}, 10, {0, 1});
  WriteNpz("2.npz", {3, 1, 1, 1}, 20, {2, 3, 4});
  auto source = OpenImageSource(folder_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT(Read(**source, 0, 5), ElementsAre(10, 11, 20, 21, 22));
  EXPECT_THAT(Read(**source, 1, 2), ElementsAre(11, 20));
  EXPECT_THAT(Read(**source, 3, 2), ElementsAre(21, 22));
  EXPECT_THAT((*source)->labels(), ElementsAre(0, 1, 2, 3, 4));
  WriteNpz("3.npz", {1, 1, 1, 3}, 30);
  EXPECT_THAT(Refusal(""), HasSubstr("3 channels"));
}

TEST_F(ImageSourceTest, LatentsBecomeBytesByTheSamplersRule) {
  WriteLatents("rgb.h5", 3, {-1.0f, 1.0f, 0.0f, 0.5f, -0.5f, 0.25f}, 1);
  auto source = OpenImageSource(Path("rgb.h5"));
  ASSERT_TRUE(source.ok()) << source.status();
  // truncate(clamp(127.5 x + 128, 0, 255)), channels innermost.
  EXPECT_THAT(Read(**source, 0, 1), ElementsAre(0, 128, 64, 255, 191, 159));
  EXPECT_THAT((*source)->labels(), ElementsAre(5));
  EXPECT_EQ((*source)->classes(), 7);
}

TEST_F(ImageSourceTest, LatentsThatAreNoImagesAreRefused) {
  WriteLatents("wide.h5", 4, std::vector<float>(8, 0.0f), 1);
  EXPECT_THAT(Refusal("wide.h5"), HasSubstr("4 channels"));
  WriteLatents("large.h5", 1, {0.0f, 1.0f, 0.0f, 1.5f}, 2);
  auto source = OpenImageSource(Path("large.h5"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT(Read(**source, 0, 1), ElementsAre(128, 255));
  std::vector<uint8_t> pixels(2);
  EXPECT_THAT(std::string((*source)->Read(1, pixels).message()), HasSubstr("sample 1 holds 1.5"));
}

TEST_F(ImageSourceTest, HashNamesContentAndFindsDamage) {
  WriteNpz("a.npz", {2, 1, 1, 1}, 10);
  const std::string file = ReadWholeFile(Path("a.npz"), 1 << 20).value();
  const auto hash = ImageSourceSha256(Path("a.npz"));
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->size(), 64u);
  const std::string of_folder = ImageSourceSha256(folder_.path()).value();
  EXPECT_EQ(of_folder, *hash);  // one file
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), Path("b.npz"), file).ok());
  EXPECT_EQ(ImageSourceSha256(Path("b.npz")).value(), *hash);
  EXPECT_NE(ImageSourceSha256(folder_.path()).value(), *hash);

  std::string damaged = file;
  damaged[damaged.find("\n") + 1] ^= 1;  // the first pixel, behind the array's header
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), Path("b.npz"), damaged).ok());
  EXPECT_EQ(ImageSourceSha256(Path("b.npz")).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace shardit
