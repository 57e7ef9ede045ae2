// How far the clocks of ranks are apart. Steady clocks of one running system are one clock; those of two hosts start
// anywhere and drift by microseconds a second, so offsets are measured when they are used, not at the start of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "parallel/comm/communicator.h"

namespace shardit {

// Names the clock behind std::chrono::steady_clock: equal on processes of one running system (its boot id), different
// on others. Where the system does not tell, unique to the process.
std::string SteadyClockId();

// Collective and blocking: by rank, what to add to a time of that rank's clock to get rank 0's; the answer is given on
// rank 0, others get an empty vector. Ranks with one `clock_id` share an offset, that of rank 0's is 0; each other
// clock is measured with a few ping-pongs and is right to half of the shortest round trip. `now` reads the clock, in
// nanoseconds. Control messages.
std::vector<int64_t> ClockOffsets(Communicator& control, const std::string& clock_id, absl::FunctionRef<int64_t()> now);

}  // namespace shardit
