#include "core/cuda/pack.cuh"
#include "core/ops/timestep_embedding.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 128;
constexpr double kLogOfMaxPeriod = 9.210340371976184;  // ln(10000)

// One timestep and frequency a thread: its cosine and its sine.
template <class Timestep, class T>
__global__ void FeaturesKernel(const Timestep* __restrict__ t, T* __restrict__ out, int64_t count, int64_t half) {
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x, n = item / half, i = item - n * half;
  if (n >= count) return;
  const double frequency = exp(-kLogOfMaxPeriod * static_cast<double>(i) / static_cast<double>(half));
  double sine, cosine;
  sincos(static_cast<double>(t[n]) * frequency, &sine, &cosine);
  out[2 * n * half + i] = FromFloat<T>(static_cast<float>(cosine));
  out[(2 * n + 1) * half + i] = FromFloat<T>(static_cast<float>(sine));
}

template <class Timestep>
void Features(const TimestepFeaturesArgs& args, Stream stream) {
  const int64_t half = args.dim / 2;
  WithType(args.out.dtype(), [&](auto element) {
    using T = decltype(element);
    Launch(FeaturesKernel<Timestep, T>, static_cast<unsigned>(CeilDiv(args.count * half, kThreads)), kThreads, 0,
           stream, static_cast<const Timestep*>(args.t), static_cast<T*>(args.out.raw()), args.count, half);
  });
}

}  // namespace

void TimestepFeatures(const TimestepFeaturesArgs& args, CudaContext& context) {
  args.t_dtype == DType::kI64 ? Features<int64_t>(args, context.stream) : Features<float>(args, context.stream);
}

}  // namespace shardit::cuda
