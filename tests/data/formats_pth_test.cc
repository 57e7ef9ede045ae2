#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "data/formats/pth.h"
#include "tests/data/test_files.h"

namespace shardit {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;
using Values = std::vector<float>;
using Shape = std::vector<int64_t>;

std::string Golden(const std::string& name) { return JoinPath(SHARDIT_SOURCE_DIR "/tests/data/formats_golden", name); }

// Of a file of make_pth.py.
Values Read(const std::string& file, const std::string& group, const std::string& name) {
  auto reader = PthReader::Open(Golden(file));
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return {};
  const PthTensor* tensor = reader->Find(group, name);
  EXPECT_NE(tensor, nullptr) << name;
  if (tensor == nullptr) return {};
  const auto values = reader->ReadAsFloat(*tensor);
  EXPECT_TRUE(values.ok()) << values.status();
  return values.ok() ? *values : Values();
}

class PthFile : public testing::TestWithParam<const char*> {};

TEST_P(PthFile, HoldsTheTensorsThatTorchSaved) {
  const std::string file = GetParam();
  const Values matrix = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75};
  EXPECT_EQ(Read(file, "", "matrix"), matrix);
  EXPECT_EQ(Read(file, "", "column"), (Values{0.25, 1.25, 2.25}));
  EXPECT_EQ(Read(file, "", "turned"), (Values{0, 1, 2, 0.25, 1.25, 2.25, 0.5, 1.5, 2.5, 0.75, 1.75, 2.75}));
  EXPECT_EQ(Read(file, "", "scalar"), Values{7});
  EXPECT_EQ(Read(file, "", "empty"), Values{});
  EXPECT_EQ(Read(file, "", "double"), Values{1.0f / 3});
  EXPECT_EQ(Read(file, "", "half"), (Values{0.5, -2}));
  EXPECT_EQ(Read(file, "", "brain"), (Values{1.5, -3}));
  EXPECT_EQ(Read(file, "", "whole"), (Values{-5, 6}));
  EXPECT_EQ(Read(file, "", "short"), Values{-300});
  EXPECT_EQ(Read(file, "", "tiny"), Values{-7});
  EXPECT_EQ(Read(file, "", "byte"), Values{255});
  EXPECT_EQ(Read(file, "", "truth"), (Values{1, 0}));
  auto reader = PthReader::Open(Golden(file));
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(reader->tensors().size(), 13u);
  EXPECT_EQ(reader->groups(), std::vector<std::string>{""});
  EXPECT_EQ(reader->Find("", "turned")->shape, (Shape{4, 3}));
  EXPECT_EQ(reader->Find("", "empty")->shape, (Shape{0, 3}));
  EXPECT_EQ(reader->Find("", "turned")->storage, reader->Find("", "matrix")->storage);
  EXPECT_EQ(reader->Find("x", "matrix"), nullptr);
  EXPECT_TRUE(reader->Verify().ok());
}

INSTANTIATE_TEST_SUITE_P(BothForms, PthFile, testing::Values("torch_zip.pth", "torch_legacy.pth"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(
                               std::string_view(info.param).substr(0, std::string_view(info.param).find('.')));
                         });

TEST(PthTest, FindsGroupsAndPassesOverTheRest) {
  for (const char* file : {"torch_groups.pth", "torch_groups_legacy.pth"}) {
    const auto reader = PthReader::Open(Golden(file));
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(reader->groups(), (std::vector<std::string>{"model", "ema"}));
    EXPECT_EQ(Read(file, "model", "w"), (Values{1, 2}));
    EXPECT_EQ(Read(file, "model", "b"), Values{3});  // a Parameter
    EXPECT_EQ(Read(file, "ema", "w"), (Values{4, 5}));
    EXPECT_EQ(reader->tensors().size(), 3u);
  }
}

TEST(PthTest, RefusesEveryTruncation) {
  const TempFolder folder;
  const std::string path = folder / "x.pth";
  for (const char* file : {"torch_zip.pth", "torch_groups_legacy.pth"}) {
    const std::string bytes = ReadBytes(Golden(file));
    for (size_t size = 0; size < bytes.size(); size += 3) {
      WriteBytes(path, bytes.substr(0, size));
      EXPECT_FALSE(PthReader::Open(path).ok()) << file << " of " << size << " bytes";
    }
  }
}

TEST(PthTest, NoticesADamagedStorageOfAnArchive) {
  const TempFolder folder;
  const std::string path = folder / "x.pth";
  std::string bytes = ReadBytes(Golden("torch_zip.pth"));
  const std::string quarter("\0\0\x80\x3e", 4);  // 0.25, in `matrix` alone
  ASSERT_NE(bytes.find(quarter), bytes.npos);
  bytes[bytes.find(quarter)] = 1;
  WriteBytes(path, bytes);
  auto reader = PthReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->Verify().code(), absl::StatusCode::kDataLoss);
}

// Pieces of a pickle.
std::string Number(int64_t value) {
  return "\x8a\x08" + std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Text(const std::string& text) {
  const uint32_t bytes = static_cast<uint32_t>(text.size());
  return "X" + std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes)) + text;
}
std::string Tuple(const std::string& items) { return "(" + items + "t"; }
std::string Tuple(const Shape& numbers) {
  std::string items;
  for (const int64_t number : numbers) items += Number(number);
  return Tuple(items);
}
std::string Program(const std::string& operations) { return "\x80\x02" + operations + "."; }

// The older form with one tensor `w` in one storage.
struct OneTensor {
  Shape shape = {2, 3};
  Shape strides = {3, 1};
  int64_t offset = 0;
  int64_t elements = 6;         // that the pickle claims for the storage
  int64_t stored_elements = 6;  // that the file claims
  int64_t present = 6;          // that there are
  std::string storage_class = "FloatStorage";
  std::string make = "_rebuild_tensor_v2";
  std::string name = "w", key = "0";  // of the tensor and its storage

  std::string Bytes() const {
    const std::string storage =
        Tuple(Text("storage") + "ctorch\n" + storage_class + "\n" + Text(key) + Text("cpu") + Number(elements) + "N") +
        "Q";
    const std::string tensor = "ctorch._utils\n" + make + "\n" +
                               Tuple(storage + Number(offset) + Tuple(shape) + Tuple(strides) + "\x89N") + "R";
    std::string bytes = Program("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") + Program(Number(1001)) +
                        Program("}" + Text("little_endian") + "\x88s") + Program("}" + Text(name) + tensor + "s") +
                        Program("]" + Text(key) + "a");
    bytes.append(reinterpret_cast<const char*>(&stored_elements), sizeof(stored_elements));
    bytes.append(static_cast<size_t>(present) * sizeof(float), '\0');
    return bytes;
  }
};

std::string Refusal(const std::string& bytes) {
  const TempFolder folder;
  WriteBytes(folder / "x.pth", bytes);
  const auto reader = PthReader::Open(folder / "x.pth");
  return reader.ok() ? "accepted" : std::string(reader.status().message());
}

TEST(PthTest, ChecksTensorsAgainstTheirStorages) {
  EXPECT_EQ(Refusal(OneTensor{}.Bytes()), "accepted");
  EXPECT_THAT(Refusal(OneTensor{.offset = 1}.Bytes()), HasSubstr("does not fit a storage of 6 elements"));
  EXPECT_THAT(Refusal(OneTensor{.strides = {4, 1}}.Bytes()), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(OneTensor{.strides = {1}}.Bytes()), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(OneTensor{.shape = {7, 1}, .strides = {0, 0}}.Bytes()), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(OneTensor{.shape = {1, 2}, .strides = {1, int64_t{1} << 62}}.Bytes()), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(OneTensor{.shape = {int64_t{1} << 62, 8}}.Bytes()), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(OneTensor{.shape = {-2, 3}}.Bytes()), HasSubstr("numbers >= 0"));
  EXPECT_THAT(Refusal(OneTensor{.offset = -1}.Bytes()), HasSubstr("does not fit"));
  EXPECT_EQ(Refusal(OneTensor{.shape = {int64_t{1} << 62, 0}, .strides = {1, 1}}.Bytes()), "accepted");
}

TEST(PthTest, ChecksStoragesAgainstTheFile) {
  EXPECT_THAT(Refusal(OneTensor{.elements = 7}.Bytes()), HasSubstr("has 6 elements, expected 7"));
  EXPECT_THAT(Refusal(OneTensor{.stored_elements = 7}.Bytes()), HasSubstr("has 7 elements, expected 6"));
  EXPECT_THAT(Refusal(OneTensor{.present = 5}.Bytes()), HasSubstr("the file has room for 5"));
  const int64_t huge = int64_t{1} << 61;
  EXPECT_THAT(Refusal(OneTensor{.elements = huge, .stored_elements = huge}.Bytes()), HasSubstr("room for 6"));
  EXPECT_THAT(Refusal(OneTensor{.storage_class = "QInt8Storage"}.Bytes()), HasSubstr("torch QInt8Storage"));
  EXPECT_THAT(Refusal(OneTensor{.make = "_rebuild_sparse_tensor"}.Bytes()), HasSubstr("expected a dense tensor"));
}

// Every tensor and storage keeps a copy of its name, which the pickle may hold once for all of them.
TEST(PthTest, BoundsNames) {
  const std::string longest(1024, 'n'), longer(1025, 'n');
  EXPECT_EQ(Refusal(OneTensor{.name = longest, .key = longest}.Bytes()), "accepted");
  EXPECT_THAT(Refusal(OneTensor{.name = longer}.Bytes()), HasSubstr("a name of 1025 bytes"));
  EXPECT_THAT(Refusal(OneTensor{.key = longer}.Bytes()), HasSubstr("a name of 1025 bytes"));
}

TEST(PthTest, CallsNothing) {
  // What would run a command in Python is a record here, and no tensor.
  const std::string command = "cos\nsystem\n" + Tuple(Text("touch /tmp/shardit_pth_called")) + "R";
  std::string bytes = OneTensor{}.Bytes();
  const std::string tensor = "ctorch._utils";
  bytes.insert(bytes.find(tensor), command + "0");
  EXPECT_EQ(Refusal(bytes), "accepted");
  EXPECT_EQ(KindOfPath("/tmp/shardit_pth_called"), PathKind::kMissing);
  EXPECT_THAT(Refusal(Program(command)), HasSubstr("magic number"));
}

TEST(PthTest, NamesWhatIsNoWeightFile) {
  EXPECT_THAT(Refusal("hello"), HasSubstr("is not a file of torch.save"));
  EXPECT_THAT(Refusal(""), HasSubstr("is not a file of torch.save"));
  EXPECT_THAT(Refusal(ReadBytes(Golden("numpy_stored.npz"))), HasSubstr("no entry data.pkl"));
}

std::string PickleRefusal(const std::string& bytes) {
  const auto pickle = ParsePickle(bytes);
  return pickle.ok() ? "accepted" : std::string(pickle.status().message());
}

TEST(PickleTest, BoundsWhatAProgramMayDo) {
  EXPECT_EQ(PickleRefusal(Program("N")), "accepted");
  EXPECT_THAT(PickleRefusal(Program("")), HasSubstr("finds the stack empty"));
  EXPECT_THAT(PickleRefusal(Program("t")), HasSubstr("finds no mark"));
  EXPECT_THAT(PickleRefusal(Program("NN(0")), HasSubstr("finds the stack empty"));  // not below the mark
  EXPECT_THAT(PickleRefusal(Program("h\x05")), HasSubstr("asks for memo 5"));
  EXPECT_THAT(PickleRefusal(Program("}Ns")), HasSubstr("too few values"));
  EXPECT_THAT(PickleRefusal(Program("NNa")), HasSubstr("holds nothing"));
  EXPECT_THAT(PickleRefusal("\x80\x05N."), HasSubstr("protocol 5"));
  EXPECT_THAT(PickleRefusal(Program("ios\nsystem\n")), HasSubstr("is not an operation"));
  EXPECT_THAT(PickleRefusal("\x80\x02X\xff\xff\xff\xff"), HasSubstr("needs 4294967295 bytes"));
  EXPECT_THAT(PickleRefusal(Program(std::string(kMaxPickleValues + 1, 'N'))), HasSubstr("makes value"));
  EXPECT_EQ(PickleRefusal(Program("]q\0h\0a"s)), "accepted");  // a list that holds itself
  // A dictionary of one key, n times in itself: linear to hold, exponential to walk without a bound.
  EXPECT_EQ(PickleRefusal(Program("}q\x01" + Text("a") + "h\x01s")), "accepted");
}

// A name of two names, again and again: 2^60 bytes.
TEST(PickleTest, NamesAreMadeOfTexts) {
  EXPECT_EQ(PickleRefusal(Program(Text("os") + Text("system") + "\x93")), "accepted");
  std::string doubling = Text("a") + "q\0"s;
  for (int i = 0; i < 60; ++i) doubling += "h\0h\0\x93q\0"s + "0";
  EXPECT_THAT(PickleRefusal(Program(doubling)), HasSubstr("finds no texts"));
  EXPECT_THAT(PickleRefusal(Program("NN\x93")), HasSubstr("finds no texts"));
  const std::string longer(257, 'a');
  EXPECT_THAT(PickleRefusal(Program(Text(longer) + Text("a") + "\x93")), HasSubstr("more than 256 bytes"));
  EXPECT_THAT(PickleRefusal(Program("ca\n" + longer + "\n")), HasSubstr("more than 256 bytes"));
}

TEST(PickleTest, ReadsNumbers) {
  const auto value = [](const std::string& operations) {
    const auto pickle = ParsePickle(Program(operations));
    EXPECT_TRUE(pickle.ok()) << pickle.status();
    return pickle.ok() ? pickle->at(pickle->root) : PickleValue();
  };
  EXPECT_EQ(value("J\xfe\xff\xff\xff").integer, -2);
  EXPECT_EQ(value("K\xff").integer, 255);
  EXPECT_EQ(value("M\x01\x02").integer, 513);
  EXPECT_EQ(value("\x8a\0"s).integer, 0);
  EXPECT_EQ(value("\x8a\x01\x80").integer, -128);
  EXPECT_EQ(value("\x8a\x02\xff\x7f").integer, 32767);
  EXPECT_EQ(value("\x8a\x09\0\0\0\0\0\0\0\0\x01"s).kind, PickleValue::Kind::kBigInt);
  EXPECT_EQ(value("G\xbf\xf8\0\0\0\0\0\0"s).number, -1.5);
  EXPECT_EQ(value("\x88").integer, 1);
}

}  // namespace
}  // namespace shardit
