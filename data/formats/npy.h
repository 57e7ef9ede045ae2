// The header of a .npy file (numpy.lib.format, versions 1.0 to 3.0): magic, version, length, and a Python dictionary
// literal {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, padded so that data starts on 64 bytes.
// Little-endian numeric arrays in C order only: object arrays would need a pickle machine, and are refused.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shardit {

enum class NpyType { kBool, kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64, kF16, kF32, kF64 };

int64_t ItemBytes(NpyType type);
absl::string_view TypeName(NpyType type);  // numpy's descr: "<f4", "|u1"

struct NpyHeader {
  NpyType type = NpyType::kF32;
  std::vector<int64_t> shape;
  int64_t header_bytes = 0;  // where the data begins
  int64_t data_bytes = 0;    // product of shape and item size, checked

  int64_t elements() const { return data_bytes / ItemBytes(type); }
};

// What numpy would write, as version 1.0.
std::string FormatNpyHeader(NpyType type, const std::vector<int64_t>& shape);

// No header that we accept is longer.
constexpr int64_t kMaxNpyHeaderBytes = 65536;

// `start` is the start of the file, up to kMaxNpyHeaderBytes of it. An error says the rule that is broken.
absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view start);

}  // namespace shardit
