#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "data/formats/float16.h"
#include "data/formats/safetensors.h"
#include "data/formats/safetensors_header.h"

namespace shardit {
namespace {

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/shardit_safetensors_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root_ = pattern;
    path_ = JoinPath(root_, "x.safetensors");
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(PosixFileSystem(), root_).ok()); }

  // A file of a length field (by default the true one), `json` and `data_bytes` zero bytes.
  absl::Status OpenRaw(const std::string& json, size_t data_bytes, uint64_t length_field = ~0ull) {
    const uint64_t length = length_field == ~0ull ? json.size() : length_field;
    std::string content(8, '\0');
    std::memcpy(content.data(), &length, 8);
    content += json + std::string(data_bytes, '\0');
    EXPECT_TRUE(AtomicWriteFile(PosixFileSystem(), path_, content).ok());
    return SafetensorsReader::Open(path_).status();
  }

  std::string root_, path_;
};

TEST_F(SafetensorsTest, RoundTripOfEveryType) {
  const double f64[2] = {1.5, -1e300};
  const float f32[6] = {0, 1, 2, 3, 4, 5};
  const uint16_t f16[2] = {0x3c00, 0x0001}, bf16[1] = {0xc040};
  const int64_t i64[2] = {-7, 1ll << 40};
  const int32_t i32[1] = {-5};
  const uint8_t u8[3] = {1, 2, 255}, boolean[1] = {1};
  const std::vector<SafetensorsTensor> tensors = {
      {{"f32", SafetensorsType::kF32, {2, 3}}, f32},  {{"f64", SafetensorsType::kF64, {2}}, f64},
      {{"f16", SafetensorsType::kF16, {2}}, f16},     {{"bf16", SafetensorsType::kBF16, {}}, bf16},
      {{"i64", SafetensorsType::kI64, {2, 1}}, i64},  {{"i32", SafetensorsType::kI32, {1}}, i32},
      {{"u8", SafetensorsType::kU8, {3}}, u8},        {{"b", SafetensorsType::kBool, {1}}, boolean},
      {{"empty", SafetensorsType::kF32, {0, 4}}, f32}};
  ASSERT_TRUE(WriteSafetensors(PosixFileSystem(), path_, tensors, {{"k", "v \"quoted\" \n \xc3\xa9"}, {"a", ""}}).ok());

  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->entries().size(), tensors.size());
  EXPECT_EQ(reader->metadata().at("k"), "v \"quoted\" \n \xc3\xa9");
  EXPECT_EQ(reader->header_bytes() % 8, 0);
  for (const SafetensorsTensor& tensor : tensors) {
    const auto entry = reader->Require(tensor.spec.name);
    ASSERT_TRUE(entry.ok());
    EXPECT_EQ((*entry)->type, tensor.spec.type);
    EXPECT_EQ((*entry)->shape, tensor.spec.shape);
    EXPECT_EQ((*entry)->begin % ItemBytes(tensor.spec.type), 0);
    std::string bytes(static_cast<size_t>((*entry)->bytes), '\0');
    ASSERT_TRUE(reader->Read(**entry, 0, (*entry)->bytes, bytes.data()).ok());
    EXPECT_EQ(std::memcmp(bytes.data(), tensor.data, bytes.size()), 0) << tensor.spec.name;
  }
  float floats[2];
  ASSERT_TRUE(reader->ReadAsFloat(*reader->Find("f32"), 4, 2, floats).ok());
  EXPECT_EQ(floats[1], 5);
  ASSERT_TRUE(reader->ReadAsFloat(*reader->Find("f16"), 0, 2, floats).ok());
  EXPECT_EQ(floats[0], 1);
  EXPECT_EQ(floats[1], 0x1p-24f);
  ASSERT_TRUE(reader->ReadAsFloat(*reader->Find("bf16"), 0, 1, floats).ok());
  EXPECT_EQ(floats[0], -3);
  int64_t ints[2];
  ASSERT_TRUE(reader->ReadAsInt64(*reader->Find("i64"), 1, 1, ints).ok());
  EXPECT_EQ(ints[0], 1ll << 40);
  EXPECT_FALSE(reader->ReadAsFloat(*reader->Find("i64"), 0, 1, floats).ok());
  EXPECT_FALSE(reader->ReadAsInt64(*reader->Find("f32"), 0, 1, ints).ok());
  EXPECT_EQ(reader->Require("absent").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SafetensorsTest, BytesAreExactlyTheDocumentedOnes) {
  const float a[2] = {1, 2};
  const uint8_t b[1] = {9};
  ASSERT_TRUE(WriteSafetensors(PosixFileSystem(), path_,
                               {{{"b", SafetensorsType::kU8, {1}}, b}, {{"a", SafetensorsType::kF32, {2}}, a}},
                               {{"step", "4"}})
                  .ok());
  const std::string json = R"({"__metadata__":{"step":"4"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                           R"("b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})";
  const size_t padded = (json.size() + 7) / 8 * 8;
  std::string expected(8, '\0');
  expected[0] = static_cast<char>(padded);
  expected += json + std::string(padded - json.size(), ' ');
  expected += std::string("\0\0\x80\x3f\0\0\0\x40\x09", 9);
  EXPECT_EQ(ReadWholeFile(path_, 1 << 20).value(), expected);
}

TEST_F(SafetensorsTest, StreamingInPiecesAndRangeReads) {
  std::vector<float> values(50000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  auto writer = SafetensorsWriter::Create(
      PosixFileSystem(), path_, {{"t", SafetensorsType::kF32, {500, 100}}, {"u", SafetensorsType::kU8, {2}}}, {});
  ASSERT_TRUE(writer.ok());
  for (size_t at = 0; at < values.size(); at += 777) {
    const size_t count = std::min<size_t>(777, values.size() - at);
    ASSERT_TRUE(writer->Append(values.data() + at, static_cast<int64_t>(4 * count)).ok());
  }
  ASSERT_TRUE(writer->Append("xy", 2).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->entries()[1].begin, writer->begin(1));
  float middle[100];
  ASSERT_TRUE(reader->ReadAsFloat(*reader->Find("t"), 30000, 100, middle).ok());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(middle[i], 30000 + i);
}

TEST_F(SafetensorsTest, WriterRefusesWhatItCannotStore) {
  FileSystem& fs = PosixFileSystem();
  const float x[1] = {0};
  const auto write = [&](const std::string& name, std::vector<int64_t> shape) {
    return WriteSafetensors(fs, path_, {{{name, SafetensorsType::kF32, std::move(shape)}, x}}, {});
  };
  EXPECT_FALSE(write("bad\xff", {1}).ok());
  EXPECT_FALSE(write("__metadata__", {1}).ok());
  EXPECT_FALSE(write("t", {-1}).ok());
  EXPECT_FALSE(write("t", {1ll << 40, 1ll << 40}).ok());
  EXPECT_FALSE(
      WriteSafetensors(fs, path_, {{{"t", SafetensorsType::kF32, {1}}, x}, {{"t", SafetensorsType::kF32, {1}}, x}}, {})
          .ok());
  EXPECT_TRUE(ListFolder(root_)->empty());  // nothing was left behind
}

// One rule broken at a time; the message must speak of that rule.
TEST_F(SafetensorsTest, HostileHeadersAreRefusedByRule) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_TRUE(OpenRaw(good, 8).ok());
  ASSERT_TRUE(OpenRaw(good + "   ", 8).ok());
  ASSERT_TRUE(OpenRaw("{}", 0).ok());

  struct Case {
    std::string json;
    size_t data_bytes;
    std::string expected;
  };
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::vector<Case> cases = {
      {good, 7, "truncated or has a tail"},
      {good, 9, "truncated or has a tail"},
      {"", 0, "not valid JSON"},
      {"[]", 0, "an array"},
      {"7", 0, "a number"},
      {good + "x", 8, "not valid JSON"},
      {good + std::string(1, '\0') + "x", 8, "NUL"},
      {"{" + a + "," + a + "}", 8, "appears twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "second time"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "second time"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "second time"},
      {R"({"__metadata__":{"k":1}})", 0, "a number"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "missing field"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "missing field"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "more than 2"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":"F32"}})", 8, "field 'x'"},
      {R"({"a":{"dtype":"F8","shape":[2],"data_offsets":[0,8]}})", 8, "dtype 'F8'"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "negative"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "not an integer"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "do not have the size"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "do not have the size"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8, "2^63"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "do not have the size"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "no hole"},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "no hole"},
      {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8, "an array"},
      {R"({"a":{"dtype":{},"shape":[2],"data_offsets":[0,8]}})", 8, "an object"},
      {"{\"a\":" + std::string(100000, '['), 0, "an array"},
      {std::string(100000, '['), 0, "an array"},
  };
  for (const Case& c : cases) {
    const absl::Status status = OpenRaw(c.json, c.data_bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.json.substr(0, 100);
    const std::string message(status.message());
    EXPECT_NE(message.find(c.expected), std::string::npos) << c.json.substr(0, 100) << "\n -> " << message;
    EXPECT_NE(message.find(path_), std::string::npos) << message;
  }
}

TEST_F(SafetensorsTest, LengthFieldIsBounded) {
  EXPECT_FALSE(OpenRaw("{}", 0, 3).ok());
  EXPECT_FALSE(OpenRaw("{}", 0, 0xffffffffffffffffull - 1).ok());
  EXPECT_FALSE(OpenRaw("{}", 0, 100'000'001).ok());
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), path_, "short").ok());
  EXPECT_FALSE(SafetensorsReader::Open(path_).ok());
}

// Any mutation is either refused or still describes bytes inside the file.
TEST_F(SafetensorsTest, MutatedHeadersNeverLeaveTheFile) {
  const std::string json = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                           R"("b":{"dtype":"U8","shape":[],"data_offsets":[24,25]}})";
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string mutant = json;
    for (unsigned k = 0; k <= random() % 3; ++k) {
      const size_t at = random() % mutant.size();
      const char replacement = random() % 4 == 0 ? static_cast<char>(random()) : json[random() % json.size()];
      if (random() % 2 != 0)
        mutant[at] = replacement;
      else if (random() % 2 != 0)
        mutant.erase(at, 1);
      else
        mutant.insert(at, 1, replacement);
    }
    const auto header = ParseSafetensorsHeader(mutant, 25);
    if (!header.ok()) continue;
    ++accepted;
    int64_t total = 0;
    for (const SafetensorsEntry& entry : header->entries) {
      ASSERT_GE(entry.begin, 0);
      ASSERT_LE(entry.begin + entry.bytes, 25);
      total += entry.bytes;
    }
    ASSERT_EQ(total, 25) << mutant;
  }
  EXPECT_GT(accepted, 0);
}

TEST(Float16, EveryPatternAgainstTheDefinition) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double sign = bits & 0x8000 ? -1 : 1;
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    const float got = FloatFromFloat16Bits(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(got), fraction != 0) << bits;
      if (fraction == 0) {
        ASSERT_EQ(got, sign * std::numeric_limits<double>::infinity());
      }
      continue;
    }
    const double expected =
        exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(got, expected) << bits;
    ASSERT_EQ(std::signbit(got), sign < 0) << bits;
  }
}

}  // namespace
}  // namespace shardit
