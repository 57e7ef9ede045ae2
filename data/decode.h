// Stored samples to model input: conversions over plain arrays, written so that the compiler vectorises them.
// Arguments of one call must not overlap unless they are the same array. Deterministic: each output element is one
// fixed sequence of IEEE operations, the same on every instruction set.
#pragma once

#include <cstdint>

namespace shardit {

// out[i] = float(half[i]), IEEE binary16, exact; infinities and NaNs stay what they are.
void HalfToFloat(const uint16_t* half, int64_t count, float* out);

// values[i] *= scale.
void Scale(float* values, int64_t count, float scale);

// x[i] = (mean[i] + deviation[i] * x[i]) * scale: x comes in as standard normal draws and leaves as the sample.
void Posterior(const float* mean, const float* deviation, int64_t count, float scale, float* x);

// Mirrors each of `rows` rows of `width` elements in place: the flip along the width of [C, H, W].
void FlipWidth(float* values, int64_t rows, int64_t width);

}  // namespace shardit
