// CRC32C (Castagnoli polynomial 0x1EDC6F41, reflected, initial value and final xor 0xFFFFFFFF): the checksum of
// checkpoints and of TFRecord frames. The SSE4.2 instruction is used where the processor has it (found at run time),
// tables otherwise; both give the same value. Thread-safe, never fails.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shardit {

// CRC of `bytes` bytes at `data`. Crc32c("123456789", 9) == 0xE3069283.
uint32_t Crc32c(const void* data, size_t bytes);

// Crc32cExtend(Crc32c(a), b) == Crc32c(a followed by b); the CRC of nothing is 0.
uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t bytes);

// The form in which TFRecord files (TensorBoard) store a CRC: rotated right by 15 bits, plus a constant.
constexpr uint32_t MaskTfRecordCrc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

namespace internal {

// The two implementations behind Crc32cExtend, separate so that a test can compare them. The hardware one may be
// called only where Crc32cHardwareAvailable().
uint32_t Crc32cExtendTables(uint32_t crc, const void* data, size_t bytes);
uint32_t Crc32cExtendHardware(uint32_t crc, const void* data, size_t bytes);
bool Crc32cHardwareAvailable();

}  // namespace internal
}  // namespace shardit
