// One decision for all ranks about an error that some may have met.
#pragma once

#include "absl/status/status.h"
#include "parallel/comm/communicator.h"

namespace shardit {

// Collective and blocking: every rank brings the status of its own attempt and gets the same answer, so that none goes
// on into collectives that a failed rank will not join. OK if all are OK. Else the code and payloads (such as an exit
// code) of the lowest failed rank, and the failures by rank, equal ones together: "ranks 0, 2: cannot open x; rank 3:
// ...", at most eight different ones. On one rank the status itself. Counted as control messages; one small all-reduce
// if all is well.
absl::Status AgreeStatus(Communicator& comm, const absl::Status& mine);

}  // namespace shardit
