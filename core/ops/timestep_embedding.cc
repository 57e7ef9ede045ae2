#include "core/ops/timestep_embedding.h"

#include <cmath>

namespace shardit {
namespace {

double Timestep(const Tensor& t, int64_t n) {
  return t.dtype() == DType::kI64 ? static_cast<double>(t.data<int64_t>()[n]) : double{t.data<float>()[n]};
}

}  // namespace

Tensor TimestepEmbedding(RankContext& context, const Tensor& t_N, int dim) {
  CHECK(t_N.ndim() == 1 && t_N.is_dense() && dim >= 2 && dim % 2 == 0)
      << "[timestep_embedding] t " << t_N.shape() << ", dim " << dim;
  Tensor out = Tensor::Empty(context.allocator(), {t_N.dim(0), dim});
  const int64_t half = dim / 2;
  float* features = out.data();
  if (context.cpu().Planned({"timestep_embedding", 0, static_cast<double>(out.bytes())})) return out;
  constexpr int64_t kGrain = 4;  // timesteps: below it, waking a thread costs more than it saves
  context.pool().ParallelFor(t_N.dim(0), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency = std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half));
      for (int64_t n = begin; n < end; ++n) {
        const double angle = Timestep(t_N, n) * frequency;
        features[n * dim + i] = static_cast<float>(std::cos(angle));
        features[n * dim + half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
  return out;
}

}  // namespace shardit
