// JobEnd: when the scheduler will end this job, and whether the run must save now to be done by then. It learns what a
// step, a save and what some steps do besides take, so that no signal need be asked of the scheduler: the run stops as
// late as it safely can, saves and exits with 75. Pure but for FromEnvironment; one thread.
//
// Times are seconds: since 1970 where they say `unix`, else durations.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"

namespace shardit {

class JobEnd {
 public:
  // What some turns of the training loop do besides their step.
  enum class Extra { kValidation, kGrid };
  // Which of them the next turn will do.
  struct NextTurn {
    bool validates = false, draws_grid = false;
  };

  // Kept for what ends a process besides its save: files, peers, the launcher.
  static constexpr double kMargin = 5.0;
  // What a first save is taken to write a second, before one has been seen.
  static constexpr double kFirstSaveBytesPerSecond = 100e6;

  // What is expected before anything has been seen.
  struct Guess {
    int64_t saved_bytes = 0;  // written by a rank in a save
    // Turns that a validation and a grid take.
    double validation_turns = 0, grid_turns = 0;
  };

  // No `unix_end`: the job never ends.
  JobEnd(std::optional<double> unix_end, const Guess& guess);

  // The end that the environment names: SHARDIT_JOB_END (of the batch scripts in slurm/) or else SLURM_JOB_END_TIME,
  // both unix seconds; none where neither is set. InvalidArgument (exit code 64) where SHARDIT_JOB_END is no such time.
  static absl::StatusOr<std::optional<double>> FromEnvironment();

  // Within the turn. The longest counts and is not forgotten: thousands of turns may lie between two.
  void ExtraTook(Extra extra, double seconds);
  // Within the turn: training waited for a save, which SaveTook counts.
  void SaveStalled(double seconds) { besides_ += seconds; }
  // One turn of the training loop with all that it did; what it did besides the step is taken off. The longest counts,
  // forgotten slowly; the first of a start, which warms up, does not.
  void TurnTook(double seconds);
  // From the request of a save to its commit. The longest counts.
  void SaveTook(double seconds);

  // Seconds that must be left when a turn begins: for it, the next one that notices, two saves (one may be under way)
  // and the margin.
  double Reserve(const NextTurn& next) const;
  bool MustStop(double unix_now, const NextTurn& next) const {
    return unix_end_.has_value() && unix_now + Reserve(next) > *unix_end_;
  }

 private:
  const std::optional<double> unix_end_;
  const Guess guess_;
  double turn_ = 0, save_ = 0;
  std::optional<double> validation_, grid_;
  double besides_ = 0;  // seconds of the turn under way that are not its step's
  bool warm_ = false, saw_save_ = false;
};

}  // namespace shardit
