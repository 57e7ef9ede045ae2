// The JSON header of a safetensors file as text: parsing of hostile ones, and the one canonical form that we write.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/formats/safetensors.h"

namespace shardit {

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // `begin` counts from the start of the data section
  std::map<std::string, std::string> metadata;
};

// Parses and checks everything that the text alone decides: grammar, known fields and dtypes, nesting, sizes, order.
// Entries come back in the order of their offsets, which cover [0, data_bytes) without hole or overlap.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes);

// Length field and JSON, padded to a multiple of 8 bytes. Tensors are laid out in the order given.
absl::StatusOr<std::string> FormatSafetensorsHeader(const std::vector<SafetensorsSpec>& tensors,
                                                    const std::map<std::string, std::string>& metadata);

// Bytes of a tensor; nullopt-like -1 where a dimension is negative or the product leaves int64.
int64_t CheckedTensorBytes(SafetensorsType type, const std::vector<int64_t>& shape);

}  // namespace shardit
