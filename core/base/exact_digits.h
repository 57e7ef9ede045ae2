// The digits of ExactSum (core/base/exact_sum.h), for the host and for CUDA kernels: the same integers, the same bits.
//
// A sum is kLimbs int64: kDigits digits, digit i weighing 2^(32 i - 1074), the last one signed, then three counters of
// what was not finite. Digits of several sums may be added as plain integers; 2^30 additions of values, over all sums
// that are put together, fit without a carry.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/base/host_device.h"

namespace shardit::exact {

inline constexpr int kDigits = 66;
inline constexpr int kNan = kDigits, kPositiveInfinity = kDigits + 1, kNegativeInfinity = kDigits + 2;
inline constexpr int kLimbs = kDigits + 3;

inline constexpr int kDigitBits = 32;
inline constexpr int64_t kDigitMask = (int64_t{1} << kDigitBits) - 1;
inline constexpr uint64_t kInfinityBits = uint64_t{0x7ff} << 52;
inline constexpr uint64_t kNanBits = kInfinityBits | uint64_t{1} << 51;
inline constexpr uint64_t kSignBit = uint64_t{1} << 63;

SHARDIT_HOST_DEVICE inline double DoubleFromBits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

SHARDIT_HOST_DEVICE inline uint64_t BitsOf(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// What adding a value means: part[k] goes to limb + k. Parts that are zero may lie behind the limbs: leave them out.
struct Term {
  int limb = 0;
  int64_t part[3] = {};
};

SHARDIT_HOST_DEVICE inline Term TermOf(double value) {
  const uint64_t bits = BitsOf(value), fraction = bits & ((uint64_t{1} << 52) - 1);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const bool negative = (bits & kSignBit) != 0;
  if (exponent == 0x7ff) {
    return {fraction != 0 ? kNan : negative ? kNegativeInfinity : kPositiveInfinity, {1, 0, 0}};
  }
  const uint64_t mantissa = exponent == 0 ? fraction : fraction | uint64_t{1} << 52;
  const int at = exponent == 0 ? 0 : exponent - 1;  // of the mantissa's lowest bit
  // 53 bits, shifted by less than a digit, lie in three digits.
  const int shift = at % kDigitBits;
  const uint64_t upper = mantissa >> (kDigitBits - shift);
  const int64_t parts[3] = {static_cast<int64_t>(mantissa << shift) & kDigitMask,
                            static_cast<int64_t>(upper) & kDigitMask, static_cast<int64_t>(upper >> kDigitBits)};
  const int64_t sign = negative ? -1 : 1;
  return {at / kDigitBits, {sign * parts[0], sign * parts[1], sign * parts[2]}};
}

// Afterwards every digit but the last is in [0, 2^32): one representation per sum.
SHARDIT_HOST_DEVICE inline void Carry(int64_t* limbs) {
  for (int i = 0; i + 1 < kDigits; ++i) {
    const int64_t carry = limbs[i] >> kDigitBits;
    limbs[i] &= kDigitMask;
    limbs[i + 1] += carry;
  }
}

// Bits [low, low + 53) of a carried sum that is not negative.
SHARDIT_HOST_DEVICE inline uint64_t MantissaAt(const int64_t* limbs, int low) {
  const int digit = low / kDigitBits, shift = low % kDigitBits;
  uint64_t bits = static_cast<uint64_t>(limbs[digit]) >> shift;
  if (digit + 1 < kDigits) bits |= static_cast<uint64_t>(limbs[digit + 1]) << (kDigitBits - shift);
  if (digit + 2 < kDigits && shift > 0) bits |= static_cast<uint64_t>(limbs[digit + 2]) << (2 * kDigitBits - shift);
  return bits & ((uint64_t{1} << 53) - 1);
}

SHARDIT_HOST_DEVICE inline bool AnyBitBelow(const int64_t* limbs, int end) {
  for (int i = 0; i < end / kDigitBits; ++i) {
    if (limbs[i] != 0) return true;
  }
  return (limbs[end / kDigitBits] & ((int64_t{1} << end % kDigitBits) - 1)) != 0;
}

// The double nearest to a carried sum that is not negative, ties to even.
SHARDIT_HOST_DEVICE inline double RoundMagnitude(const int64_t* limbs) {
  int top = kDigits - 1;
  while (top >= 0 && limbs[top] == 0) --top;
  if (top < 0) return 0.0;
  // The last digit may be wider than 32 bits only where the sum is far beyond the largest double.
  if (limbs[top] > kDigitMask) return DoubleFromBits(kInfinityBits);
  int width = kDigitBits;
  while (limbs[top] >> (width - 1) == 0) --width;
  // Up to 53 bits the sum is a double, whose bits are those of the sum: the smallest subnormal weighs 1 in both.
  const int low = top * kDigitBits + width - 53;
  if (low <= 0) return DoubleFromBits(MantissaAt(limbs, 0));
  uint64_t mantissa = MantissaAt(limbs, low);
  const bool half = (limbs[(low - 1) / kDigitBits] >> (low - 1) % kDigitBits & 1) != 0;
  if (half && (AnyBitBelow(limbs, low - 1) || mantissa % 2 == 1)) ++mantissa;
  // The mantissa's leading bit counts once more in the exponent, as does what rounding carries out of it.
  const uint64_t bits = (static_cast<uint64_t>(low) << 52) + mantissa;
  return DoubleFromBits(bits < kInfinityBits ? bits : kInfinityBits);
}

// ExactSum::Round of the sum, whose digits it leaves carried, and negated where the sum is negative.
SHARDIT_HOST_DEVICE inline double Round(int64_t* limbs) {
  const bool positive = limbs[kPositiveInfinity] != 0, negative = limbs[kNegativeInfinity] != 0;
  if (limbs[kNan] != 0 || (positive && negative)) return DoubleFromBits(kNanBits);
  if (positive || negative) return DoubleFromBits(kInfinityBits | (negative ? kSignBit : 0));
  Carry(limbs);
  const bool below_zero = limbs[kDigits - 1] < 0;
  if (below_zero) {
    for (int i = 0; i < kDigits; ++i) limbs[i] = -limbs[i];
    Carry(limbs);
  }
  const double magnitude = RoundMagnitude(limbs);
  return below_zero ? -magnitude : magnitude;
}

}  // namespace shardit::exact
