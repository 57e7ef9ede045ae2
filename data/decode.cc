#include "data/decode.h"

#include <algorithm>
#include <bit>

namespace shardit {
namespace {

// Without denormal arithmetic, which a thread may have switched off: a binary16 denormal is built beside 2^-14, whose
// last fraction bit weighs the same, and 2^-14 is then subtracted exactly.
inline float HalfBitsToFloat(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t shifted = magnitude << 13;
  const uint32_t normal = shifted + (112u << 23);
  const uint32_t special = shifted + (224u << 23);
  const float denormal = std::bit_cast<float>(shifted + (113u << 23)) - std::bit_cast<float>(113u << 23);
  // Masks, not branches: a choice between floats keeps the compiler from vectorising.
  const uint32_t is_special = 0u - static_cast<uint32_t>(magnitude >= 0x7c00u);
  const uint32_t is_denormal = 0u - static_cast<uint32_t>(magnitude < 0x0400u);
  const uint32_t bits = (special & is_special) | (std::bit_cast<uint32_t>(denormal) & is_denormal) |
                        (normal & ~is_special & ~is_denormal);
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000u) << 16);
}

}  // namespace

void HalfToFloat(const uint16_t* half, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = HalfBitsToFloat(half[i]);
}

void Scale(float* values, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) values[i] *= scale;
}

void Posterior(const float* mean, const float* deviation, int64_t count, float scale, float* x) {
  for (int64_t i = 0; i < count; ++i) x[i] = (mean[i] + deviation[i] * x[i]) * scale;
}

void FlipWidth(float* values, int64_t rows, int64_t width) {
  // Four elements from each end at a time, as one shuffle each; the middle is left to the plain loop.
  using Float4 = float __attribute__((vector_size(16), aligned(4), may_alias));
  for (int64_t row = 0; row < rows; ++row) {
    float* const line = values + row * width;
    int64_t left = 0, right = width;
    for (; right - left >= 8; left += 4, right -= 4) {
      auto* const low = reinterpret_cast<Float4*>(line + left);
      auto* const high = reinterpret_cast<Float4*>(line + right - 4);
      const Float4 a = *low, b = *high;
      *low = __builtin_shufflevector(b, b, 3, 2, 1, 0);
      *high = __builtin_shufflevector(a, a, 3, 2, 1, 0);
    }
    std::reverse(line + left, line + right);
  }
}

}  // namespace shardit
