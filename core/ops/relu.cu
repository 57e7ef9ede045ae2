#include <algorithm>

#include "core/cuda/pack.cuh"
#include "core/ops/relu.h"

namespace shardit::cuda {
namespace {

template <class T>
struct FwdBody {
  const T* x;
  T* y;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<T, kCount> in = LoadPack<kCount>(x + i);
    float out[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = in[k] < 0 ? 0.0f : in[k];  // false for a NaN
    StorePack(y + i, out);
  }
};

template <class Y, class Dy, class Dx>
struct BwdBody {
  const Y* y;
  const Dy* dy;
  Dx* dx;
  bool accumulate;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<Y, kCount> out = LoadPack<kCount>(y + i);
    const Pack<Dy, kCount> grad = LoadPack<kCount>(dy + i);
    float sum[kCount] = {};
    if (accumulate) Unpack(LoadPack<kCount>(static_cast<const Dx*>(dx) + i), sum);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += out[k] > 0 ? grad[k] : 0.0f;
    StorePack(dx + i, sum);
  }
};

}  // namespace

void ReluFwd(const ReluFwdArgs& args, CudaContext& context) {
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const FwdBody<T> body{.x = static_cast<const T*>(args.x.raw()), .y = static_cast<T*>(args.y.raw())};
    constexpr int kPack = kPackSize<T>;
    ForPacks<kPack>(body, PacksFit(args.x, kPack) && PacksFit(args.y, kPack), args.count, context.stream);
  });
}

void ReluBwd(const ReluBwdArgs& args, CudaContext& context) {
  WithType(args.y.dtype(), [&](auto y) {
    WithType(args.dy.dtype(), [&](auto dy) {
      WithType(args.dx.dtype(), [&](auto dx) {
        using Y = decltype(y);
        using Dy = decltype(dy);
        using Dx = decltype(dx);
        const BwdBody<Y, Dy, Dx> body{.y = static_cast<const Y*>(args.y.raw()),
                                      .dy = static_cast<const Dy*>(args.dy.raw()),
                                      .dx = static_cast<Dx*>(args.dx.raw()),
                                      .accumulate = args.accumulate};
        constexpr int kPack = std::max({kPackSize<Y>, kPackSize<Dy>, kPackSize<Dx>});
        const bool fit = PacksFit(args.y, kPack) && PacksFit(args.dy, kPack) && PacksFit(args.dx, kPack);
        ForPacks<kPack>(body, fit, args.count, context.stream);
      });
    });
  });
}

}  // namespace shardit::cuda
