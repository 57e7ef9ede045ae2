#include "core/base/exact_sum.h"

namespace shardit {
namespace {

// Each addition moves a digit by less than 2^32, and a digit holds 2^63.
constexpr int64_t kMaxUncarried = int64_t{1} << 30;

}  // namespace

void ExactSum::Add(double value) {
  if (uncarried_ >= kMaxUncarried) Carry();
  ++uncarried_;
  const exact::Term term = exact::TermOf(value);
  for (int k = 0; k < 3; ++k) {
    if (term.part[k] != 0) limbs_[static_cast<size_t>(term.limb + k)] += term.part[k];
  }
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
  exact::Carry(limbs_.data());
  uncarried_ = 0;
}

bool ExactSum::finite() const {
  return limbs_[exact::kNan] == 0 && limbs_[exact::kPositiveInfinity] == 0 && limbs_[exact::kNegativeInfinity] == 0;
}

double ExactSum::Round() const {
  std::array<int64_t, exact::kLimbs> limbs = limbs_;
  return exact::Round(limbs.data());
}

}  // namespace shardit
