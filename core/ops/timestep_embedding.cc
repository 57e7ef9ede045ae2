#include "core/ops/timestep_embedding.h"

#include <cmath>

#include "core/cuda/nvtx.h"

namespace shardit {

Tensor TimestepEmbedding(RankContext& context, const Tensor& t_N, int dim, DType dtype) {
  const NvtxRange range("timestep_embedding");
  CHECK(t_N.ndim() == 1 && t_N.is_dense() && dim >= 2 && dim % 2 == 0)
      << "[timestep_embedding] t " << t_N.shape() << ", dim " << dim;
  Tensor out = Tensor::Empty(context.allocator(), {t_N.dim(0), dim}, dtype);
  const TimestepFeaturesArgs args{
      .t = t_N.raw(), .t_dtype = t_N.dtype(), .out = out.ref(), .count = t_N.dim(0), .dim = dim};
  context.on_cuda() ? cuda::TimestepFeatures(args, context.cuda()) : cpu::TimestepFeatures(args, context.cpu());
  return out;
}

namespace cpu {

void TimestepFeatures(const TimestepFeaturesArgs& args, CpuContext& context) {
  const auto& [t, t_dtype, out, count, dim] = args;
  if (context.Planned({"timestep_embedding", 0, static_cast<double>(SizeOf(out.dtype()) * count * dim)})) return;
  const auto timestep = [&](int64_t n) {
    return t_dtype == DType::kI64 ? static_cast<double>(static_cast<const int64_t*>(t)[n])
                                  : double{static_cast<const float*>(t)[n]};
  };
  const int64_t half = dim / 2, width = dim;
  float* const features = out;
  constexpr int64_t kGrain = 4;  // timesteps: below it, waking a thread costs more than it saves
  context.pool.ParallelFor(count, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency = std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half));
      for (int64_t n = begin; n < end; ++n) {
        const double angle = timestep(n) * frequency;
        features[n * width + i] = static_cast<float>(std::cos(angle));
        features[n * width + half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

}  // namespace cpu
}  // namespace shardit
