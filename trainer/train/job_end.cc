#include "trainer/train/job_end.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// A hiccup is forgotten after some hundred turns; the turns of rare validations are remembered as long.
constexpr double kForgetting = 0.998;

bool ParseTime(const char* text, double* unix_seconds) {
  return absl::SimpleAtod(text, unix_seconds) && *unix_seconds > 0 && *unix_seconds < 1e12;
}

}  // namespace

JobEnd::JobEnd(std::optional<double> unix_end, int64_t saved_bytes)
    : unix_end_(unix_end), save_(static_cast<double>(saved_bytes) / kFirstSaveBytesPerSecond) {}

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

void JobEnd::TurnTook(double seconds) {
  if (warm_) turn_ = std::max(seconds, kForgetting * turn_);
  warm_ = true;
}

void JobEnd::SaveTook(double seconds) {
  save_ = saw_save_ ? std::max(save_, seconds) : seconds;
  saw_save_ = true;
}

}  // namespace shardit
