// Timing an op case.
#pragma once

#include <string>

#include "tests/core/op_run.h"

namespace shardit {

// Prints one line: microseconds of forward and of backward, the median of 21 runs, and GB/s, counting every tensor that
// must be read or written once. On a GPU by its events; what is read was not in its cache, and what the host takes to
// launch is hidden unless it takes longer than clearing that cache.
void TimeOp(RankContext& context, const OpProblem& problem, const std::string& label);

}  // namespace shardit
