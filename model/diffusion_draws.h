// The draws of a training sample that are one number each, for the host and for CUDA kernels: pure functions of (seed,
// global position). Diffusion::DrawTimestep and DrawLabelDrop (model/diffusion.h) are these.
#pragma once

#include <cstdint>

#include "core/tensor/rng.h"

namespace shardit {

SHARDIT_HOST_DEVICE inline int64_t TimestepAt(uint64_t seed, int64_t position, int64_t steps) {
  const RngKey key{seed, RngPurpose::kTimestep, static_cast<uint64_t>(position)};
  return BoundedFromWord(key.Word(0), static_cast<uint32_t>(steps));
}

SHARDIT_HOST_DEVICE inline bool LabelDroppedAt(uint64_t seed, int64_t position, float probability) {
  const RngKey key{seed, RngPurpose::kLabelDrop, static_cast<uint64_t>(position)};
  return UniformFromWord(key.Word(0)) < probability;
}

// The sequence of the sample's noise.
SHARDIT_HOST_DEVICE inline RngKey NoiseKey(uint64_t seed, int64_t position) {
  return {seed, RngPurpose::kNoise, static_cast<uint64_t>(position)};
}

}  // namespace shardit
