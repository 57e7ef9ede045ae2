// FillUniform and FillNormal: the scalar functions of rng.h on vectors. Every operation is one that IEEE 754 defines to
// the bit, in the scalar order, so that the numbers are the same on every instruction set. A target without fused
// multiply-add uses the scalar functions themselves.
#include <algorithm>
#include <array>

#include "core/tensor/rng.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/tensor/rng_fill_cpu.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

#ifndef SHARDIT_CORE_TENSOR_RNG_FILL_CPU_ONCE
#define SHARDIT_CORE_TENSOR_RNG_FILL_CPU_ONCE
namespace shardit::rng_internal {

constexpr int64_t kBlocks = 64;  // Philox blocks made in one go; a multiple of every vector's lanes
using WordPairs = std::array<uint64_t, 2 * kBlocks>;  // words 2i (lower half) and 2i + 1

// Walks the elements that whole vectors cannot cover; each block is computed once.
template <class FromWord>
void FillScalar(const RngKey& key, uint64_t first, int64_t count, float* out, FromWord from_word) {
  int64_t written = 0;
  while (written < count) {
    const uint64_t element = first + static_cast<uint64_t>(written);
    const PhiloxBlock block = key.Block(element / 4);
    for (uint64_t lane = element % 4; lane < 4 && written < count; ++lane) out[written++] = from_word(block.word[lane]);
  }
}

}  // namespace shardit::rng_internal
#endif  // SHARDIT_CORE_TENSOR_RNG_FILL_CPU_ONCE

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using rng_internal::kBlocks;
using rng_internal::WordPairs;

#if HWY_NATIVE_FMA

// Words of the blocks first .. first + kBlocks - 1. A 64-bit lane holds one word of one block, in its lower half.
void PhiloxWords(const RngKey& key, uint64_t first, WordPairs& pairs) {
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  const auto low = hn::Set(d, 0xffffffffull);
  const auto multiplier0 = hn::BitCast(d32, hn::Set(d, 0xD2511F53ull));
  const auto multiplier1 = hn::BitCast(d32, hn::Set(d, 0xCD9E8D57ull));
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t block = 0; block < kBlocks; block += lanes) {
    const auto index = hn::Iota(d, first + static_cast<uint64_t>(block));
    auto w0 = hn::And(index, low), w1 = hn::ShiftRight<32>(index);
    auto w2 = hn::Set(d, key.stream & 0xffffffffull), w3 = hn::Set(d, key.stream >> 32);
    uint32_t key0 = key.KeyWord0(), key1 = key.KeyWord1();
    for (int round = 0; round < 10; ++round) {
      const auto p0 = hn::MulEven(multiplier0, hn::BitCast(d32, w0));
      const auto p1 = hn::MulEven(multiplier1, hn::BitCast(d32, w2));
      w0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), w1), hn::Set(d, uint64_t{key0}));
      w1 = hn::And(p1, low);
      w2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), w3), hn::Set(d, uint64_t{key1}));
      w3 = hn::And(p0, low);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    hn::StoreInterleaved2(hn::Or(w0, hn::ShiftLeft<32>(w1)), hn::Or(w2, hn::ShiftLeft<32>(w3)), d,
                          pairs.data() + 2 * block);
  }
}

template <class D, class VU>
HWY_INLINE hn::Vec<D> UniformFromWords(D d, VU words) {
  const hn::RebindToSigned<D> di;
  return hn::Mul(hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<8>(words))), hn::Set(d, 1.0f / 16777216.0f));
}

// a[0] x^n + a[1] x^(n-1) + ..., one fused multiply-add a term.
template <class D, class V, size_t kTerms>
HWY_INLINE V Polynomial(D d, V x, const std::array<float, kTerms>& a) {
  V sum = hn::Set(d, a[0]);
  for (size_t i = 1; i < kTerms; ++i) sum = hn::MulAdd(sum, x, hn::Set(d, a[i]));
  return sum;
}

// rng_internal::NegativeLog.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V NegativeLogs(D d, V a) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, a);
  const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f2aaaab)));
  const V m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent)));
  const V one = hn::Set(d, 1.0f);
  const V s = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const V s2 = hn::Mul(s, s);
  V p = Polynomial(d, s2, std::array{0.22222222f, 0.28571429f, 0.4f, 0.66666667f});
  p = hn::MulAdd(hn::Mul(s2, p), s, hn::Mul(hn::Set(d, 2.0f), s));
  return hn::Neg(hn::MulAdd(hn::ConvertTo(d, exponent), hn::Set(d, 0.69314718f), p));
}

// NormalFromWord.
template <class D, class VU>
HWY_INLINE hn::Vec<D> NormalFromWords(D d, VU words) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto upper = hn::BroadcastSignBit(hn::BitCast(di, words));  // all ones in the upper half
  const auto near_end = hn::Xor(words, hn::BitCast(du, upper));
  const auto p = hn::MulAdd(hn::ConvertTo(d, hn::BitCast(di, near_end)), hn::Set(d, 0x1p-32f), hn::Set(d, 0x1p-33f));
  const auto one = hn::Set(d, 1.0f);
  const auto x = hn::MulAdd(hn::Set(d, -2.0f), p, one);
  const auto w = NegativeLogs(d, hn::Mul(hn::Mul(hn::Set(d, 4.0f), p), hn::Sub(one, p)));
  const auto centre =
      Polynomial(d, hn::Sub(w, hn::Set(d, 2.5f)),
                 std::array{2.81022636e-08f, 3.43273939e-07f, -3.5233877e-06f, -4.39150654e-06f, 0.00021858087f,
                            -0.00125372503f, -0.00417768164f, 0.246640727f, 1.50140941f});
  const auto tail = Polynomial(d, hn::Sub(hn::Sqrt(w), hn::Set(d, 3.0f)),
                               std::array{-0.000200214257f, 0.000100950558f, 0.00134934322f, -0.00367342844f,
                                          0.00573950773f, -0.0076224613f, 0.00943887047f, 1.00167406f, 2.83297682f});
  const auto q = hn::IfThenElse(hn::Lt(w, hn::Set(d, 5.0f)), centre, tail);
  const auto magnitude = hn::Mul(hn::Mul(q, x), hn::Set(d, 1.41421356f));
  // Negative in the lower half.
  const auto sign = hn::AndNot(hn::BitCast(du, upper), hn::Set(du, 0x80000000u));
  return hn::BitCast(d, hn::Xor(hn::BitCast(du, magnitude), sign));
}

// Elements of the blocks first .. first + kBlocks - 1.
template <class FromWords>
HWY_INLINE void FillBlocks(const RngKey& key, uint64_t first, float* out, const FromWords& from_words) {
  const hn::ScalableTag<float> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  const hn::RebindToUnsigned<decltype(d)> du;
  alignas(64) WordPairs pairs;
  PhiloxWords(key, first, pairs);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < 4 * kBlocks; i += lanes) {
    const auto words = hn::BitCast(du, hn::LoadU(d64, pairs.data() + i / 2));
    hn::StoreU(from_words(d, words), d, out + i);
  }
}

void UniformBlocks(const RngKey& key, uint64_t first, float* out) {
  FillBlocks(key, first, out, [](auto d, auto words) HWY_ATTR { return UniformFromWords(d, words); });
}

void NormalBlocks(const RngKey& key, uint64_t first, float* out) {
  FillBlocks(key, first, out, [](auto d, auto words) HWY_ATTR { return NormalFromWords(d, words); });
}

#else

void UniformBlocks(const RngKey& key, uint64_t first, float* out) {
  rng_internal::FillScalar(key, 4 * first, 4 * kBlocks, out, UniformFromWord);
}

void NormalBlocks(const RngKey& key, uint64_t first, float* out) {
  rng_internal::FillScalar(key, 4 * first, 4 * kBlocks, out, NormalFromWord);
}

#endif  // HWY_NATIVE_FMA

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardit {
namespace {

HWY_EXPORT(UniformBlocks);
HWY_EXPORT(NormalBlocks);

// Elements up to a block's start and those that fill no group of blocks go one by one.
template <class FromWord, class Blocks>
void Fill(const RngKey& key, uint64_t first, int64_t count, float* out, FromWord from_word, const Blocks& blocks) {
  constexpr int64_t kGroup = 4 * rng_internal::kBlocks;  // elements
  const int64_t head = std::min<int64_t>(count, static_cast<int64_t>((4 - first % 4) % 4));
  rng_internal::FillScalar(key, first, head, out, from_word);
  int64_t done = head;
  for (; done + kGroup <= count; done += kGroup) blocks(key, (first + static_cast<uint64_t>(done)) / 4, out + done);
  rng_internal::FillScalar(key, first + static_cast<uint64_t>(done), count - done, out + done, from_word);
}

}  // namespace

void FillUniform(const RngKey& key, uint64_t first, int64_t count, float* out) {
  Fill(key, first, count, out, UniformFromWord, HWY_DYNAMIC_DISPATCH(UniformBlocks));
}

void FillNormal(const RngKey& key, uint64_t first, int64_t count, float* out) {
  Fill(key, first, count, out, NormalFromWord, HWY_DYNAMIC_DISPATCH(NormalBlocks));
}

}  // namespace shardit
#endif  // HWY_ONCE
