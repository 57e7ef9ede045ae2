// JobEnd: when the scheduler will end this job, and whether the run must save now to be done by then. It learns what a
// step and a save take, so that no signal need be asked of the scheduler: the run stops as late as it safely can, saves
// and exits with 75. Pure but for FromEnvironment; one thread.
//
// Times are seconds: since 1970 where they say `unix`, else durations.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"

namespace shardit {

class JobEnd {
 public:
  // Kept for what ends a process besides its save: files, peers, the launcher.
  static constexpr double kMargin = 5.0;
  // What a first save is taken to write a second, before one has been seen.
  static constexpr double kFirstSaveBytesPerSecond = 100e6;

  // No `unix_end`: the job never ends. `saved_bytes` is what a rank writes in a save.
  JobEnd(std::optional<double> unix_end, int64_t saved_bytes);

  // The end that the environment names: SHARDIT_JOB_END (of the batch scripts in slurm/) or else SLURM_JOB_END_TIME,
  // both unix seconds; none where neither is set. InvalidArgument (exit code 64) where SHARDIT_JOB_END is no such time.
  static absl::StatusOr<std::optional<double>> FromEnvironment();

  // One turn of the training loop, whatever it did besides the step. The longest turn counts, forgotten slowly; the
  // first of a start, which warms up, does not.
  void TurnTook(double seconds);
  // From the request of a save to its commit. The longest counts.
  void SaveTook(double seconds);

  // Seconds that must be left when a turn begins: for it, the next one that notices, two saves (one may be under way)
  // and the margin.
  double Reserve() const { return 2 * turn_ + 2 * save_ + kMargin; }
  bool MustStop(double unix_now) const { return unix_end_.has_value() && unix_now + Reserve() > *unix_end_; }

 private:
  const std::optional<double> unix_end_;
  double turn_ = 0, save_ = 0;
  bool warm_ = false, saw_save_ = false;
};

}  // namespace shardit
