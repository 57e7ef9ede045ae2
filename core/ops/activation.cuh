// Activations on CUDA: y = F::Value(x), dx = F::Gradient(kept, dy), element by element, where `kept` is what the
// operation saves for its backward pass, x or y.
#pragma once

#include <algorithm>

#include "core/cuda/pack.cuh"

namespace shardit::cuda {

template <class F, class T>
struct ActivationFwdBody {
  const T* x;
  T* y;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<T, kCount> in = LoadPack<kCount>(x + i);
    float out[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = F::Value(in[k]);
    StorePack(y + i, out);
  }
};

template <class F, class Kept, class Dy, class Dx>
struct ActivationBwdBody {
  const Kept* kept;
  const Dy* dy;
  Dx* dx;
  bool accumulate;

  template <int kCount>
  __device__ __forceinline__ void Run(int64_t i) const {
    const Pack<Kept, kCount> saved = LoadPack<kCount>(kept + i);
    const Pack<Dy, kCount> grad = LoadPack<kCount>(dy + i);
    float sum[kCount] = {};
    if (accumulate) Unpack(LoadPack<kCount>(static_cast<const Dx*>(dx) + i), sum);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += F::Gradient(saved[k], grad[k]);
    StorePack(dx + i, sum);
  }
};

// x and y are of one type.
template <class F>
void ActivationFwd(ConstElements x, Elements y, int64_t count, Stream stream) {
  WithType(x.dtype(), [&](auto element) {
    using T = decltype(element);
    const ActivationFwdBody<F, T> body{.x = static_cast<const T*>(x.raw()), .y = static_cast<T*>(y.raw())};
    constexpr int kPack = kPackSize<T>;
    ForPacks<kPack>(body, PacksFit(x, kPack) && PacksFit(y, kPack), count, stream);
  });
}

template <class F>
void ActivationBwd(ConstElements kept, ConstElements dy, Elements dx, bool accumulate, int64_t count, Stream stream) {
  WithType(kept.dtype(), [&](auto kept_element) {
    WithType(dy.dtype(), [&](auto dy_element) {
      WithType(dx.dtype(), [&](auto dx_element) {
        using Kept = decltype(kept_element);
        using Dy = decltype(dy_element);
        using Dx = decltype(dx_element);
        const ActivationBwdBody<F, Kept, Dy, Dx> body{.kept = static_cast<const Kept*>(kept.raw()),
                                                      .dy = static_cast<const Dy*>(dy.raw()),
                                                      .dx = static_cast<Dx*>(dx.raw()),
                                                      .accumulate = accumulate};
        constexpr int kPack = std::max({kPackSize<Kept>, kPackSize<Dy>, kPackSize<Dx>});
        ForPacks<kPack>(body, PacksFit(kept, kPack) && PacksFit(dy, kPack) && PacksFit(dx, kPack), count, stream);
      });
    });
  });
}

}  // namespace shardit::cuda
