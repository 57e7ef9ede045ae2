#include "core/base/crc32c.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace shardit {
namespace {

// RFC 3720 (iSCSI), appendix B.4.
TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(Crc32c("", 0), 0u);
  EXPECT_EQ(Crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0').data(), 32), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  std::string up(32, '\0'), down(32, '\0');
  for (int i = 0; i < 32; ++i) {
    up[i] = static_cast<char>(i);
    down[i] = static_cast<char>(31 - i);
  }
  EXPECT_EQ(Crc32c(up.data(), 32), 0x46dd794eu);
  EXPECT_EQ(Crc32c(down.data(), 32), 0x113fdb5cu);
}

// Bit by bit from the definition: shares nothing with the code under test.
uint32_t SlowCrc32c(const unsigned char* data, size_t bytes) {
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) * 0x82f63b78u);
  }
  return ~crc;
}

std::vector<unsigned char> Noise(size_t bytes) {
  std::vector<unsigned char> data(bytes);
  uint64_t state = 88172645463325252ull;
  for (unsigned char& b : data) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    b = static_cast<unsigned char>(state >> 32);
  }
  return data;
}

TEST(Crc32c, PathsAgreeWithTheDefinitionAtEveryLengthClass) {
  const std::vector<unsigned char> data = Noise(60000);
  // Around the lane lengths of the hardware path (3 x 256 and 3 x 8192 bytes) and unaligned starts.
  for (const size_t bytes : {0, 1, 7, 8, 9, 255, 767, 768, 769, 1535, 1536, 1544, 24575, 24576, 24577, 25345, 50001}) {
    for (const size_t start : {0, 1, 5}) {
      const uint32_t expected = SlowCrc32c(data.data() + start, bytes);
      EXPECT_EQ(internal::Crc32cExtendTables(0, data.data() + start, bytes), expected) << bytes << " at " << start;
      if (internal::Crc32cHardwareAvailable()) {
        EXPECT_EQ(internal::Crc32cExtendHardware(0, data.data() + start, bytes), expected) << bytes << " at " << start;
      }
    }
  }
}

TEST(Crc32c, ExtendingIsConcatenating) {
  const std::vector<unsigned char> data = Noise(30000);
  const uint32_t whole = Crc32c(data.data(), data.size());
  for (const size_t cut : {0, 1, 100, 24576, 29999, 30000}) {
    EXPECT_EQ(Crc32cExtend(Crc32c(data.data(), cut), data.data() + cut, data.size() - cut), whole) << cut;
  }
}

// A length field of 24 in a TFRecord: crc of 18 00 00 00 00 00 00 00, masked as TensorFlow's record_writer does.
TEST(Crc32c, TfRecordMask) {
  EXPECT_EQ(MaskTfRecordCrc(0), 0xa282ead8u);
  EXPECT_EQ(MaskTfRecordCrc(0x00008000u), 0xa282ead9u);
  EXPECT_EQ(MaskTfRecordCrc(0xffffffffu), 0xa282ead7u);
  const unsigned char length[8] = {24, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(MaskTfRecordCrc(Crc32c(length, 8)), MaskTfRecordCrc(SlowCrc32c(length, 8)));
}

}  // namespace
}  // namespace shardit
