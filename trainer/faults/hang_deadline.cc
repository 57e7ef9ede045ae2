#include "trainer/faults/hang_deadline.h"

#include <algorithm>

namespace shardit {

void HangDeadline::StepTook(double seconds) {
  if (steps_.size() < kSteps) {
    steps_.push_back(seconds);
  } else {
    steps_[next_++ % kSteps] = seconds;
  }
}

void HangDeadline::PauseEnded(Phase phase, double seconds) {
  double& longest = longest_pause_[static_cast<size_t>(phase)];
  longest = std::max(longest, seconds);
}

double HangDeadline::Seconds(Phase phase, bool first_visit) const {
  if (fixed_ > 0.0) return fixed_;
  if (first_visit || steps_.size() < kStepsToLearn) return kUnknown;
  std::vector<double> sorted = steps_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const double shortest = phase == Phase::kSave ? kUnknown : kShortest;
  return std::max({shortest, 10.0 * *middle, 4.0 * longest_pause_[static_cast<size_t>(phase)]});
}

}  // namespace shardit
