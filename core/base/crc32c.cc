#include "core/base/crc32c.h"

#include <array>
#include <cstring>

#include "core/base/check.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace shardit {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // 0x1EDC6F41 with its bits reversed

using ByteTable = std::array<uint32_t, 256>;

// tables[k][b] is the CRC register after byte b and then k zero bytes: eight of them take eight bytes a step.
constexpr std::array<ByteTable, 8> MakeSliceTables() {
  std::array<ByteTable, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) ? (crc >> 1) ^ kPolynomial : crc >> 1;
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t b = 0; b < 256; ++b) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 255];
  }
  return tables;
}
constexpr std::array<ByteTable, 8> kSliceTables = MakeSliceTables();

uint64_t LoadWord(const unsigned char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

#if defined(__x86_64__)

// Product of two polynomials modulo the CRC polynomial, bit-reversed: bit 31 is the coefficient of x^0.
constexpr uint32_t MultiplyModP(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// x^(8 bytes) mod P: multiplying a CRC register by it appends that many zero bytes.
constexpr uint32_t ZeroBytesOperator(uint64_t bytes) {
  uint32_t result = 1u << 31;
  uint32_t square = 1u << 23;  // x^8
  for (; bytes != 0; bytes >>= 1) {
    if (bytes & 1) result = MultiplyModP(result, square);
    square = MultiplyModP(square, square);
  }
  return result;
}

constexpr std::array<ByteTable, 4> MakeShiftTables(uint64_t bytes) {
  const uint32_t shift = ZeroBytesOperator(bytes);
  std::array<ByteTable, 4> tables{};
  for (uint32_t k = 0; k < 4; ++k) {
    for (uint32_t b = 0; b < 256; ++b) tables[k][b] = MultiplyModP(b << (8 * k), shift);
  }
  return tables;
}

// The instruction has a latency of three cycles and a throughput of one, so three independent lanes keep it busy.
// Lane lengths: long ones amortise the join, short ones serve what is left.
constexpr size_t kLongLane = 8192;
constexpr size_t kShortLane = 256;
constexpr std::array<ByteTable, 4> kLongShift = MakeShiftTables(kLongLane);
constexpr std::array<ByteTable, 4> kShortShift = MakeShiftTables(kShortLane);

uint32_t AppendZeros(const std::array<ByteTable, 4>& shift, uint32_t crc) {
  return shift[0][crc & 255] ^ shift[1][(crc >> 8) & 255] ^ shift[2][(crc >> 16) & 255] ^ shift[3][crc >> 24];
}

// Consumes as many triples of lanes as fit; advances `p` and `bytes`.
__attribute__((target("sse4.2"))) uint64_t ThreeLanes(uint64_t crc, const unsigned char*& p, size_t& bytes, size_t lane,
                                                      const std::array<ByteTable, 4>& shift) {
  while (bytes >= 3 * lane) {
    uint64_t crc1 = 0, crc2 = 0;
    for (const unsigned char* end = p + lane; p < end; p += 8) {
      crc = _mm_crc32_u64(crc, LoadWord(p));
      crc1 = _mm_crc32_u64(crc1, LoadWord(p + lane));
      crc2 = _mm_crc32_u64(crc2, LoadWord(p + 2 * lane));
    }
    crc = AppendZeros(shift, static_cast<uint32_t>(crc)) ^ crc1;
    crc = AppendZeros(shift, static_cast<uint32_t>(crc)) ^ crc2;
    p += 2 * lane;
    bytes -= 3 * lane;
  }
  return crc;
}

#endif

}  // namespace

namespace internal {

uint32_t Crc32cExtendTables(uint32_t crc, const void* data, size_t bytes) {
  const auto& t = kSliceTables;
  const unsigned char* p = static_cast<const unsigned char*>(data);
  uint32_t reg = ~crc;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    const uint64_t word = LoadWord(p) ^ reg;
    reg = t[7][word & 255] ^ t[6][(word >> 8) & 255] ^ t[5][(word >> 16) & 255] ^ t[4][(word >> 24) & 255] ^
          t[3][(word >> 32) & 255] ^ t[2][(word >> 40) & 255] ^ t[1][(word >> 48) & 255] ^ t[0][word >> 56];
  }
  for (; bytes > 0; --bytes, ++p) reg = (reg >> 8) ^ t[0][(reg ^ *p) & 255];
  return ~reg;
}

#if defined(__x86_64__)

bool Crc32cHardwareAvailable() { return __builtin_cpu_supports("sse4.2"); }

__attribute__((target("sse4.2"))) uint32_t Crc32cExtendHardware(uint32_t crc, const void* data, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  uint64_t reg = static_cast<uint32_t>(~crc);
  reg = ThreeLanes(reg, p, bytes, kLongLane, kLongShift);
  reg = ThreeLanes(reg, p, bytes, kShortLane, kShortShift);
  for (; bytes >= 8; bytes -= 8, p += 8) reg = _mm_crc32_u64(reg, LoadWord(p));
  uint32_t last = static_cast<uint32_t>(reg);
  for (; bytes > 0; --bytes, ++p) last = _mm_crc32_u8(last, *p);
  return ~last;
}

#else

bool Crc32cHardwareAvailable() { return false; }

uint32_t Crc32cExtendHardware(uint32_t, const void*, size_t) {
  CHECK(false) << "[crc32c] no hardware path on this processor";
  return 0;
}

#endif

}  // namespace internal

uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t bytes) {
  static const bool hardware = internal::Crc32cHardwareAvailable();
  return hardware ? internal::Crc32cExtendHardware(crc, data, bytes) : internal::Crc32cExtendTables(crc, data, bytes);
}

uint32_t Crc32c(const void* data, size_t bytes) { return Crc32cExtend(0, data, bytes); }

}  // namespace shardit
