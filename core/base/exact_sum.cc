#include "core/base/exact_sum.h"

#include <bit>
#include <cmath>
#include <limits>

#include "core/base/check.h"

namespace shardit {
namespace {

constexpr int kDigitBits = 32;
constexpr int64_t kDigitMask = (int64_t{1} << kDigitBits) - 1;
constexpr int kMantissaBits = 53;
constexpr int kLowestExponent = -1074;  // of the smallest subnormal, bit 0 of digit 0
// Each addition moves a digit by less than 2^32, and a digit holds 2^63.
constexpr int64_t kMaxUncarried = int64_t{1} << 30;

// Bits [low, low + count) of the number whose digits are non-negative; count <= 64, low >= 0.
uint64_t Bits(std::span<const int64_t> digits, int low, int count) {
  uint64_t bits = 0;
  for (int i = 0; i < count; ++i) {
    const int at = low + i;
    const uint64_t bit = static_cast<uint64_t>(digits[static_cast<size_t>(at / kDigitBits)]) >> (at % kDigitBits) & 1;
    bits |= bit << i;
  }
  return bits;
}

bool AnyBitBelow(std::span<const int64_t> digits, int end) {
  for (int i = 0; i < end / kDigitBits; ++i) {
    if (digits[static_cast<size_t>(i)] != 0) return true;
  }
  const int64_t mask = (int64_t{1} << end % kDigitBits) - 1;
  return (digits[static_cast<size_t>(end / kDigitBits)] & mask) != 0;
}

// The double nearest to the number whose digits are non-negative, those below the last under 2^32.
double RoundMagnitude(std::span<const int64_t> digits) {
  int top = static_cast<int>(digits.size()) - 1;
  while (top >= 0 && digits[static_cast<size_t>(top)] == 0) --top;
  if (top < 0) return 0.0;
  const int bits = top * kDigitBits + std::bit_width(static_cast<uint64_t>(digits[static_cast<size_t>(top)]));
  // The last digit may be wider than 32 bits only where the sum is far beyond the largest double.
  if (top + 1 == static_cast<int>(digits.size()) && digits[static_cast<size_t>(top)] > kDigitMask) {
    return std::numeric_limits<double>::infinity();
  }
  if (bits <= kMantissaBits) return std::ldexp(static_cast<double>(Bits(digits, 0, bits)), kLowestExponent);
  const int low = bits - kMantissaBits;
  uint64_t mantissa = Bits(digits, low, kMantissaBits);
  const bool half = Bits(digits, low - 1, 1) != 0;
  if (half && (AnyBitBelow(digits, low - 1) || mantissa % 2 == 1)) ++mantissa;
  return std::ldexp(static_cast<double>(mantissa), low + kLowestExponent);
}

}  // namespace

void ExactSum::Add(double value) {
  if (!std::isfinite(value)) {
    ++limbs_[std::isnan(value) ? kNan : value > 0 ? kPositiveInfinity : kNegativeInfinity];
    return;
  }
  if (uncarried_ >= kMaxUncarried) Carry();
  ++uncarried_;
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const int64_t exponent = static_cast<int64_t>(bits >> 52 & 0x7ff);
  const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
  const uint64_t mantissa = exponent == 0 ? fraction : fraction | uint64_t{1} << 52;
  const int64_t at = exponent == 0 ? 0 : exponent - 1;  // of the mantissa's lowest bit
  const size_t digit = static_cast<size_t>(at / kDigitBits);
  // 53 bits, shifted by less than a digit, lie in three digits.
  const unsigned __int128 shifted = static_cast<unsigned __int128>(mantissa) << at % kDigitBits;
  const int64_t sign = value < 0 ? -1 : 1;
  limbs_[digit] += sign * (static_cast<int64_t>(shifted) & kDigitMask);
  limbs_[digit + 1] += sign * (static_cast<int64_t>(shifted >> kDigitBits) & kDigitMask);
  limbs_[digit + 2] += sign * static_cast<int64_t>(shifted >> 2 * kDigitBits);
}

void ExactSum::Merge(const ExactSum& other) {
  if (uncarried_ + other.uncarried_ >= kMaxUncarried) Carry();
  for (size_t i = 0; i < limbs_.size(); ++i) limbs_[i] += other.limbs_[i];
  uncarried_ += other.uncarried_ + 1;
}

std::span<int64_t> ExactSum::limbs() {
  Carry();
  uncarried_ = kMaxUncarried;  // what is written back may be as many sums
  return limbs_;
}

void ExactSum::Carry() {
  for (int i = 0; i + 1 < kDigits; ++i) {
    const int64_t carry = limbs_[i] >> kDigitBits;
    limbs_[i] &= kDigitMask;
    limbs_[i + 1] += carry;
  }
  uncarried_ = 0;
}

bool ExactSum::finite() const {
  return limbs_[kNan] == 0 && limbs_[kPositiveInfinity] == 0 && limbs_[kNegativeInfinity] == 0;
}

double ExactSum::Round() const {
  const bool positive = limbs_[kPositiveInfinity] != 0, negative = limbs_[kNegativeInfinity] != 0;
  if (limbs_[kNan] != 0 || (positive && negative)) return std::numeric_limits<double>::quiet_NaN();
  if (positive || negative) return std::copysign(std::numeric_limits<double>::infinity(), positive ? 1.0 : -1.0);
  ExactSum sum = *this;
  sum.Carry();
  const bool below_zero = sum.limbs_[kDigits - 1] < 0;
  if (below_zero) {
    for (int i = 0; i < kDigits; ++i) sum.limbs_[i] = -sum.limbs_[i];
    sum.Carry();
  }
  const double magnitude = RoundMagnitude(std::span<const int64_t>(sum.limbs_).first<kDigits>());
  return below_zero ? -magnitude : magnitude;
}

}  // namespace shardit
