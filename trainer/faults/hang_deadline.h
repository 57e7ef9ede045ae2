// HangDeadline: how long a rank may be without progress before it counts as hung. Learned from the run: ten times the
// median of the last steps or four times the longest pause that ended well in the same phase, whichever is longer, and
// at least 30 s. Around checkpoints at least ten minutes: what a file system does in one call, an fsync for one, shows
// no progress and lasts as long as the disk's other users make it. Pure; one thread.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "trainer/faults/beacon.h"

namespace shardit {

class HangDeadline {
 public:
  static constexpr double kShortest = 30.0;  // seconds
  // Of a phase that was never left before, until kStepsToLearn steps are known (first steps warm up), and the least of
  // Phase::kSave.
  static constexpr double kUnknown = 600.0;  // seconds
  static constexpr size_t kStepsToLearn = 3;

  // fixed_seconds > 0: that, always. 0: learned.
  explicit HangDeadline(double fixed_seconds) : fixed_(fixed_seconds) {}

  void StepTook(double seconds);
  // The rank moved again after a pause in `phase`.
  void PauseEnded(Phase phase, double seconds);

  double Seconds(Phase phase, bool first_visit) const;

 private:
  static constexpr size_t kSteps = 31;
  const double fixed_;
  std::vector<double> steps_;  // ring of the last kSteps
  size_t next_ = 0;
  std::array<double, kPhases> longest_pause_{};
};

}  // namespace shardit
