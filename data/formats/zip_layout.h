// Record layouts of the zip format (APPNOTE.TXT 4.3), shared by reader and writer. Fields are little-endian, unaligned.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace shardit::zip {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocatorSignature = 0x07064b50;
constexpr uint16_t kZip64ExtraId = 1;
constexpr uint32_t kIn64 = 0xffffffffu;  // a 32-bit field whose value is in the zip64 extra field

// Fixed parts of the records, bytes.
constexpr int64_t kLocalBytes = 30;
constexpr int64_t kCentralBytes = 46;
constexpr int64_t kEndBytes = 22;
constexpr int64_t kEnd64Bytes = 56;
constexpr int64_t kLocatorBytes = 20;

template <typename T>
T Get(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <typename T>
void Add(std::string* to, T value) {
  to->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace shardit::zip
