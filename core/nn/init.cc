#include "core/nn/init.h"

#include <algorithm>
#include <cmath>

#include "core/base/hash.h"
#include "core/tensor/rng.h"

namespace shardit {

Init Init::XavierUniform(int64_t fan_in, int64_t fan_out) {
  return {Kind::kUniform, std::sqrt(6.0 / static_cast<double>(fan_in + fan_out))};
}

void FillInitial(const Init& init, uint64_t seed, std::string_view name, int64_t first, int64_t count, float* out) {
  const RngKey key{.seed = seed, .purpose = RngPurpose::kInit, .stream = HashBytes(name)};
  const float scale = static_cast<float>(init.scale);
  switch (init.kind) {
    case Init::Kind::kZero:
      std::fill_n(out, count, 0.0f);
      break;
    case Init::Kind::kOne:
      std::fill_n(out, count, 1.0f);
      break;
    case Init::Kind::kUniform:
      FillUniform(key, static_cast<uint64_t>(first), count, out);
      for (int64_t i = 0; i < count; ++i) out[i] = (2.0f * out[i] - 1.0f) * scale;
      break;
    case Init::Kind::kNormal:
      FillNormal(key, static_cast<uint64_t>(first), count, out);
      for (int64_t i = 0; i < count; ++i) out[i] *= scale;
      break;
  }
}

}  // namespace shardit
