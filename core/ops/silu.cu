#include <algorithm>

#include "core/cuda/pack.cuh"
#include "core/ops/silu.h"

namespace shardit::cuda {
namespace {

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T>
struct FwdBody {
  const T* x;
  T* y;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<T, kCount> in = LoadPack<kCount>(x + i);
    float out[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = in[k] * Sigmoid(in[k]);
    StorePack(y + i, out);
  }
};

template <class X, class Dy, class Dx>
struct BwdBody {
  const X* x;
  const Dy* dy;
  Dx* dx;
  bool accumulate;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<X, kCount> in = LoadPack<kCount>(x + i);
    const Pack<Dy, kCount> grad = LoadPack<kCount>(dy + i);
    float sum[kCount] = {};
    if (accumulate) Unpack(LoadPack<kCount>(static_cast<const Dx*>(dx) + i), sum);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float sigmoid = Sigmoid(in[k]);
      // Not fused: the same bits as adding a finished gradient, so that recomputation changes nothing.
      sum[k] += grad[k] * (sigmoid * __fmaf_rn(in[k], 1.0f - sigmoid, 1.0f));
    }
    StorePack(dx + i, sum);
  }
};

}  // namespace

void SiluFwd(const SiluFwdArgs& args, CudaContext& context) {
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const FwdBody<T> body{.x = static_cast<const T*>(args.x.raw()), .y = static_cast<T*>(args.y.raw())};
    constexpr int kPack = kPackSize<T>;
    ForPacks<kPack>(body, PacksFit(args.x, kPack) && PacksFit(args.y, kPack), args.count, context.stream);
  });
}

void SiluBwd(const SiluBwdArgs& args, CudaContext& context) {
  WithType(args.x.dtype(), [&](auto x) {
    WithType(args.dy.dtype(), [&](auto dy) {
      WithType(args.dx.dtype(), [&](auto dx) {
        using X = decltype(x);
        using Dy = decltype(dy);
        using Dx = decltype(dx);
        const BwdBody<X, Dy, Dx> body{.x = static_cast<const X*>(args.x.raw()),
                                      .dy = static_cast<const Dy*>(args.dy.raw()),
                                      .dx = static_cast<Dx*>(args.dx.raw()),
                                      .accumulate = args.accumulate};
        constexpr int kPack = std::max({kPackSize<X>, kPackSize<Dy>, kPackSize<Dx>});
        const bool fit = PacksFit(args.x, kPack) && PacksFit(args.dy, kPack) && PacksFit(args.dx, kPack);
        ForPacks<kPack>(body, fit, args.count, context.stream);
      });
    });
  });
}

}  // namespace shardit::cuda
