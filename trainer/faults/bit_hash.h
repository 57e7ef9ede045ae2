// The hash below replica checksums, shared by host and device.
#pragma once

#include <cstdint>

#include "core/tensor/rng.h"

namespace shardit {

// The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection in which every input bit moves about half
// of the output bits.
SHARDIT_HOST_DEVICE inline uint64_t MixBits(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Of the bits of one fp32 value at a position.
SHARDIT_HOST_DEVICE inline uint64_t HashOfBits(uint32_t bits, uint64_t position) {
  return MixBits(bits + 0x9e3779b97f4a7c15ull * (position + 1));
}

}  // namespace shardit
