// Train: a whole run, from a checked configuration to the final checkpoint. Collective over the world.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "parallel/comm/world.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

struct TrainRequest {
  ResolvedConfig config;
  std::string out;                   // run folder; made if missing
  std::string resume = "auto";       // auto | never | a step number | a checkpoint folder
  std::string init_from;             // weight file to start from instead of initial values; empty: none
  std::string trace;                 // Chrome-trace JSON file of the last steps of all ranks; empty: none
  int64_t max_stalled_restarts = 0;  // > 0: every start is a scheduler's, and so many may commit nothing; 0: SLURM says
  int64_t stop_after = 0;  // ask for a stop (as a signal does) after this many steps of this process; 0: never
};

// Runs until config.options.train.steps. OK when the run is complete; Aborted with exit code 75 when a signal (USR1,
// USR2, TERM, INT) stopped it at a step boundary with its state saved; any other error carries its exit code. Every
// rank returns the same status. The run folder is laid out as docs/formats.md says.
absl::Status Train(World& world, const TrainRequest& request);

// What --dry-run prints: work per image and the plan on this machine (trainer/plan), as lines of text. For one rank.
absl::StatusOr<std::string> DescribeRun(const ResolvedConfig& config);

}  // namespace shardit
