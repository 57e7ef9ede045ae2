#include "trainer/train/job_end.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// A hiccup is forgotten after some hundred turns.
constexpr double kForgetting = 0.998;

bool ParseTime(const char* text, double* unix_seconds) {
  return absl::SimpleAtod(text, unix_seconds) && *unix_seconds > 0 && *unix_seconds < 1e12;
}

}  // namespace

JobEnd::JobEnd(std::optional<double> unix_end, const Guess& guess)
    : unix_end_(unix_end), guess_(guess), save_(static_cast<double>(guess.saved_bytes) / kFirstSaveBytesPerSecond) {}

absl::StatusOr<std::optional<double>> JobEnd::FromEnvironment() {
  double end = 0;
  if (const char* ours = std::getenv("SHARDIT_JOB_END"); ours != nullptr && *ours != '\0') {
    if (ParseTime(ours, &end)) return end;
    return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                            "SHARDIT_JOB_END: expected the end of the job in seconds since 1970, got ", Quoted(ours))),
                        ExitCode::kUsage);
  }
  // Slurm's own may be absent or, for a job without limit, no number.
  const char* slurm = std::getenv("SLURM_JOB_END_TIME");
  if (slurm != nullptr && ParseTime(slurm, &end)) return end;
  return std::nullopt;
}

void JobEnd::ExtraTook(Extra extra, double seconds) {
  std::optional<double>& longest = extra == Extra::kValidation ? validation_ : grid_;
  longest = std::max(longest.value_or(0), seconds);
  besides_ += seconds;
}

void JobEnd::TurnTook(double seconds) {
  if (warm_) turn_ = std::max(seconds - besides_, kForgetting * turn_);
  warm_ = true;
  besides_ = 0;
}

void JobEnd::SaveTook(double seconds) {
  save_ = saw_save_ ? std::max(save_, seconds) : seconds;
  saw_save_ = true;
}

double JobEnd::Reserve(const NextTurn& next) const {
  double extras = 0;
  if (next.validates) extras += validation_.value_or(guess_.validation_turns * turn_);
  if (next.draws_grid) extras += grid_.value_or(guess_.grid_turns * turn_);
  return 2 * turn_ + extras + 2 * save_ + kMargin;
}

}  // namespace shardit
