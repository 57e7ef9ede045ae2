#include "core/cuda/pack.cuh"
#include "core/ops/gated_residual.h"

namespace shardit::cuda {
namespace {

template <class T>
struct AddBody {
  const T* a;
  const T* b;
  T* out;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<T, kCount> left = LoadPack<kCount>(a + i), right = LoadPack<kCount>(b + i);
    float sum[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = left[k] + right[k];
    StorePack(out + i, sum);
  }
};

}  // namespace

void Add(const AddArgs& args, CudaContext& context) {
  WithType(args.out.dtype(), [&](auto element) {
    using T = decltype(element);
    const AddBody<T> body{.a = static_cast<const T*>(args.a.raw()),
                          .b = static_cast<const T*>(args.b.raw()),
                          .out = static_cast<T*>(args.out.raw())};
    constexpr int kPack = kPackSize<T>;
    const bool fit = PacksFit(args.a, kPack) && PacksFit(args.b, kPack) && PacksFit(args.out, kPack);
    ForPacks<kPack>(body, fit, args.count, context.stream);
  });
}

}  // namespace shardit::cuda
