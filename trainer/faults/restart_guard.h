// RestartGuard: stops a run that its scheduler restarts for ever without getting on. A small file in the run folder,
// `restarts`, keeps the newest committed step that a start found and how many restarts by the scheduler found no newer
// one. Restarts by hand begin the count anew.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace shardit {

struct RestartOptions {
  // Restarts without a new checkpoint that are let run; the next one is refused.
  int64_t limit = 3;
  // This start is a scheduler's restart: SLURM_RESTART_COUNT > 0, or the user gave a limit, under which every start
  // but the first of a run counts.
  bool by_scheduler = false;
};

// From the environment and the flag --max-stalled-restarts (0: not given).
RestartOptions RestartOptionsFromEnvironment(int64_t max_stalled_restarts);

// Rank 0, at the start, with the newest committed step (0: none): counts this start. FailedPrecondition with exit code
// 78 where it is the one too many; errors of the file itself are the file's (a damaged one counts as absent).
absl::Status CountStart(const std::string& run_folder, int64_t newest_step, const RestartOptions& options);

}  // namespace shardit
