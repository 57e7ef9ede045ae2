// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// There is no state: a number is a pure function of (seed, purpose, stream, element), so any rank can draw any part of
// any sequence, and every layout of a run sees the same numbers. Bit-equal on every instruction set and on CUDA.
//
// Element i of a sequence is word i % 4 of the block with counter i / 4.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"

namespace shardit {

// What a sequence is drawn for. Values are part of the file format of a run (a resumed run must see the same numbers):
// never renumber.
enum class RngPurpose : uint32_t {
  kInit = 1,        // stream = hash of the parameter's name, element = global element of the logical tensor
  kNoise = 2,       // stream = global sample position, element = element of the latent
  kTimestep = 3,    // stream = global sample position
  kLabelDrop = 4,   // stream = global sample position
  kFlip = 5,        // stream = global sample position
  kPosterior = 6,   // stream = global sample position, element = element of the latent
  kEpochOrder = 7,  // stream = epoch
  kSampler = 8,     // stream = sample index, element = step * latent elements + element
  kSamplerLabel = 9,
  kValidation = 10,
  kBootstrap = 11,  // stream = replicate, element = draw
  kTest = 100,
};

struct PhiloxBlock {
  uint32_t word[4];
};

// One block of four 32-bit words from a 128-bit counter and a 64-bit key.
SHARDIT_HOST_DEVICE inline PhiloxBlock Philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(p1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(p1),
                static_cast<uint32_t>(p0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(p0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Identifies one sequence. The seed and purpose make the key; stream and element make the counter.
struct RngKey {
  uint64_t seed = 0;
  RngPurpose purpose = RngPurpose::kTest;
  uint64_t stream = 0;

  SHARDIT_HOST_DEVICE uint32_t KeyWord0() const { return static_cast<uint32_t>(seed); }
  SHARDIT_HOST_DEVICE uint32_t KeyWord1() const {
    return static_cast<uint32_t>(seed >> 32) ^ (static_cast<uint32_t>(purpose) * 0x9E3779B9u);
  }
  // Block `index` of the sequence: elements 4 * index .. 4 * index + 3.
  SHARDIT_HOST_DEVICE PhiloxBlock Block(uint64_t index) const {
    return Philox4x32({{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(stream),
                        static_cast<uint32_t>(stream >> 32)}},
                      KeyWord0(), KeyWord1());
  }
  SHARDIT_HOST_DEVICE uint32_t Word(uint64_t element) const { return Block(element / 4).word[element % 4]; }
};

// Uniform in [0, 1): the word's upper 24 bits.
SHARDIT_HOST_DEVICE inline float UniformFromWord(uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

// Unbiased to 2^-32 relative: uniform integer in [0, bound) by the multiply-high method. bound >= 1.
SHARDIT_HOST_DEVICE inline uint32_t BoundedFromWord(uint32_t word, uint32_t bound) {
  return static_cast<uint32_t>((uint64_t{word} * bound) >> 32);
}

// Standard normal by inversion of one 32-bit word: odd in the word's centre, exact operations and explicit FMA only, so
// that every compiler and device gives the same bits. Defined in rng_normal.h (shared by CPU and CUDA kernels).
SHARDIT_HOST_DEVICE float NormalFromWord(uint32_t word);

// Fill out[0, count) with elements first .. first + count - 1 of the sequence: the bits of UniformFromWord and
// NormalFromWord, a vector at a time. Single-threaded.
void FillUniform(const RngKey& key, uint64_t first, int64_t count, float* out);
void FillNormal(const RngKey& key, uint64_t first, int64_t count, float* out);

}  // namespace shardit

#include "core/tensor/rng_normal.h"
