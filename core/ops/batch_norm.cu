#include "core/cuda/pack.cuh"
#include "core/ops/batch_norm.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void FactorsKernel(BatchNormArgs args, float* __restrict__ factors) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= args.channels) return;
  const double gamma = args.gamma == nullptr ? 1 : args.gamma[c], beta = args.beta == nullptr ? 0 : args.beta[c];
  const double factor = gamma / sqrt(args.variance[c] + args.epsilon);
  factors[c] = static_cast<float>(factor);
  factors[args.channels + c] = static_cast<float>(beta - args.mean[c] * factor);
}

template <class T>
struct NormBody {
  const T* x;
  T* y;
  const float* factors;
  const float* shifts;
  int64_t channels;
  bool relu;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const int64_t c = i % channels;
    const Pack<T, kCount> in = LoadPack<kCount>(x + i);
    float out[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float value = __fadd_rn(__fmul_rn(in[k], factors[c + k]), shifts[c + k]);  // as on the CPU
      out[k] = relu && value < 0 ? 0.0f : value;                                       // false for a NaN
    }
    StorePack(y + i, out);
  }
};

}  // namespace

void BatchNorm(const BatchNormArgs& args, CudaContext& context) {
  const int64_t channels = args.channels;
  float* factors = static_cast<float*>(context.scratch->Get(2 * channels * int64_t{sizeof(float)}));
  Launch(FactorsKernel, static_cast<unsigned>(CeilDiv(channels, kThreads)), kThreads, 0, context.stream, args, factors);
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const NormBody<T> body{.x = static_cast<const T*>(args.x.raw()),
                           .y = static_cast<T*>(args.y.raw()),
                           .factors = factors,
                           .shifts = factors + channels,
                           .channels = channels,
                           .relu = args.relu};
    constexpr int kPack = kPackSize<T>;
    // No pack reaches into the next pixel.
    const bool fit = PacksFit(args.x, kPack, channels) && PacksFit(args.y, kPack, channels);
    ForPacks<kPack>(body, fit, args.rows * channels, context.stream);
  });
}

}  // namespace shardit::cuda
