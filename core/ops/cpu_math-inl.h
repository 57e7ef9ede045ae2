// Elementary functions on vectors, for kernels compiled once per instruction set (Highway). fp32; `D` is a descriptor
// of float lanes. NaN passes through every function. Bounds below hold where the target has fused multiply-add, and are
// kept by tests/core/cpu_math_test.cc against fp64; ulp are units in the last place of the exact result.
//
//   Exp(d, x)         1.2 ulp; 0 below -86.64 (results under 2^-125), infinity above 88.7228
//   ExpNonPositive    the same for x <= 88, a little faster: attention weights
//   Tanh(d, x)        2 ulp
//   Sigmoid(d, x)     2.5 ulp; about 1e-38 instead of less below -86
//   Silu(d, x)        x sigmoid(x): 3 ulp.   SiluGrad(d, x)  its derivative: 3e-7 absolute
//   GeluTanh(d, x)    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)):
//                     3 ulp for x > -1, 3e-7 |x| beyond.   GeluTanhGrad(d, x)  its derivative: 4e-7 absolute
//
// Include from a file that goes through hwy/foreach_target.h (see gemm_cpu.cc). No #pragma once: it is read once for
// every instruction set.
#if defined(SHARDIT_CORE_OPS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SHARDIT_CORE_OPS_CPU_MATH_INL_H_
#undef SHARDIT_CORE_OPS_CPU_MATH_INL_H_
#else
#define SHARDIT_CORE_OPS_CPU_MATH_INL_H_
#endif

#include "core/base/simd_targets.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

namespace math_internal {

constexpr float kExpLowest = -86.64f;  // n >= -125 in Exp, so that 2^(n-1) is still a normal number

// e^x = 2^n (1 + tail): x = n ln2 + r, |r| <= ln2 / 2. ln2 is subtracted in two parts, the first short enough that its
// product with n is exact; tail is a minimax polynomial in r (Cephes, expf). n is rounded by adding 1.5 * 2^23, which
// leaves it, as an integer, in the low bits of `biased`.
template <class V>
struct ExpParts {
  V biased;
  V tail;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE ExpParts<V> SplitExp(D d, V x) {
  const V magic = hn::Set(d, 12582912.0f);
  const V biased = hn::MulAdd(x, hn::Set(d, 1.44269504088896341f), magic);
  const V n = hn::Sub(biased, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), x);
  r = hn::NegMulAdd(n, hn::Set(d, 1.428606765330187e-06f), r);
  V p = hn::Set(d, 1.9875691500e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  return {biased, hn::MulAdd(hn::Mul(p, r), r, r)};
}

// 2^(n + bias - 127) for n of ExpParts with n + bias in [1, 254].
template <class D, class V = hn::Vec<D>>
HWY_INLINE V PowerOfTwo(D d, V biased, int bias) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(hn::BitCast(di, biased)), hn::Set(di, bias << 23)));
}

// 1 / x for normal x under 2^126.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Reciprocal(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  if constexpr (hn::MaxLanes(d) == 16) {
    // 14 bits from the instruction, doubled by one Newton step: a third of the time of a division.
    const V guess = hn::ApproximateReciprocal(x);
    return hn::MulAdd(guess, hn::NegMulAdd(guess, x, one), guess);
  } else {
    return hn::Div(one, x);
  }
}

// -2 sqrt(2/pi) (x + 0.044715 x^3) is x times this, with x2 = x^2.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluSlope(D d, V x2) {
  return hn::MulAdd(x2, hn::Set(d, -0.07135481627159841f), hn::Set(d, -1.5957691216057308f));
}

}  // namespace math_internal

// Min and Max of Highway return their second argument when one is NaN on x86 (and NaN on Arm): the constant comes
// first, so that NaN reaches the polynomial and comes out.

template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  const V lowest = hn::Set(d, math_internal::kExpLowest);
  const auto low = hn::Lt(x, lowest);
  const auto parts = math_internal::SplitExp(d, hn::IfThenElse(low, lowest, x));
  const V scale = math_internal::PowerOfTwo(d, parts.biased, 127);
  return hn::IfThenZeroElse(low, hn::MulAdd(parts.tail, scale, scale));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const V lowest = hn::Set(d, math_internal::kExpLowest), highest = hn::Set(d, 88.7228317f);
  const auto low = hn::Lt(x, lowest), high = hn::Gt(x, highest);
  const auto parts = math_internal::SplitExp(d, hn::IfThenElse(low, lowest, hn::IfThenElse(high, highest, x)));
  // n may be 128: the last doubling comes after.
  const V half_scale = math_internal::PowerOfTwo(d, parts.biased, 126);
  const V half = hn::MulAdd(parts.tail, half_scale, half_scale);
  return hn::IfThenZeroElse(low, hn::IfThenElse(high, hn::Inf(d), hn::Add(half, half)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  const V size = hn::Abs(x), one = hn::Set(d, 1.0f);
  const V x2 = hn::Mul(x, x);
  V p = hn::Set(d, -5.70498872745e-3f);  // Cephes, tanhf
  p = hn::MulAdd(p, x2, hn::Set(d, 2.06390887954e-2f));
  p = hn::MulAdd(p, x2, hn::Set(d, -5.37397155531e-2f));
  p = hn::MulAdd(p, x2, hn::Set(d, 1.33314422036e-1f));
  p = hn::MulAdd(p, x2, hn::Set(d, -3.33332819422e-1f));
  const V small = hn::MulAdd(hn::Mul(p, x2), x, x);
  const V twice = hn::Add(size, size), highest = hn::Set(d, 80.0f);
  const V e = ExpNonPositive(d, hn::IfThenElse(hn::Gt(twice, highest), highest, twice));
  const V large = hn::CopySign(hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(e, one))), x);
  return hn::IfThenElse(hn::Lt(size, hn::Set(d, 0.625f)), small, large);
}

// Sigmoid(-y) as s and 1 - s as rest, both to full relative accuracy; y is first limited to [-86, 86]. NaN may be lost:
// the functions below multiply by x itself.
template <class V>
struct SigmoidPair {
  V s;
  V rest;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE SigmoidPair<V> SigmoidOfNegative(D d, V y) {
  const V limited = hn::Min(hn::Max(y, hn::Set(d, -86.0f)), hn::Set(d, 86.0f));
  const auto parts = math_internal::SplitExp(d, limited);
  const V scale = math_internal::PowerOfTwo(d, parts.biased, 127);
  const V e = hn::MulAdd(parts.tail, scale, scale);
  const V s = math_internal::Reciprocal(d, hn::Add(e, hn::Set(d, 1.0f)));
  return {s, hn::Mul(e, s)};
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  return hn::IfThenElse(hn::IsNaN(x), x, SigmoidOfNegative(d, hn::Neg(x)).s);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Silu(D d, V x) {
  return hn::Mul(x, SigmoidOfNegative(d, hn::Neg(x)).s);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V SiluGrad(D d, V x) {
  const auto both = SigmoidOfNegative(d, hn::Neg(x));
  return hn::MulAdd(hn::Mul(x, both.rest), both.s, both.s);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanh(D d, V x) {
  return hn::Mul(x, SigmoidOfNegative(d, hn::Mul(x, math_internal::GeluSlope(d, hn::Mul(x, x)))).s);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanhGrad(D d, V x) {
  const V x2 = hn::Mul(x, x);
  const auto both = SigmoidOfNegative(d, hn::Mul(x, math_internal::GeluSlope(d, x2)));
  // d/dx of x (a + b x^2) = a + 3 b x^2
  const V slope = hn::MulAdd(x2, hn::Set(d, 0.21406444881479522f), hn::Set(d, 1.5957691216057308f));
  return hn::MulAdd(hn::Mul(hn::Mul(x, slope), both.rest), both.s, both.s);
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#endif  // SHARDIT_CORE_OPS_CPU_MATH_INL_H_
