// FNV-1a, 64 bits: the fixed hash behind everything that must not change between processes, releases or machines
// (random keys from parameter names, configuration hashes in manifests). Not for hostile input.
#pragma once

#include <cstdint>
#include <string_view>

namespace shardit {

constexpr uint64_t HashBytes(std::string_view bytes, uint64_t seed = 0xcbf29ce484222325ull) {
  uint64_t hash = seed;
  for (const char c : bytes) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ull;
  }
  return hash;
}

}  // namespace shardit
