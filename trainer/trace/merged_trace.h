// One trace of a run: the timelines of all ranks in one Chrome-trace file (chrome://tracing, Perfetto), on one clock.
// A process per rank; rows for compute, for what the compute thread waits for, and for communication (more than one
// where messages overlap). Every event has its kind of span as category, and its step, and where they apply,
// micro-batch, part and bytes. The figures of the steps stand beside the events under "figures".
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/base/timeline.h"
#include "parallel/comm/communicator.h"
#include "trainer/trace/step_figures.h"

namespace shardit {

// Collective and blocking: the spans of all ranks, by rank, on rank 0; others get an empty vector. `label` names the
// rank. Control messages.
std::vector<RankTrace> GatherTraces(Communicator& control, const Timeline& mine, const std::string& label);

// The file's content, in JSON's object format. Times in microseconds since the first span.
std::string ChromeTrace(const std::vector<RankTrace>& ranks);

// Collective and blocking: gathers, and writes `path` on rank 0. Every rank gets the same status; rank 0 gets the
// figures, others an empty vector. Ranks are labelled by their threads' identity (core/base/check.h).
absl::StatusOr<std::vector<StepFigures>> WriteMergedTrace(Communicator& control, const Timeline& mine, FileSystem& fs,
                                                          const std::string& path);

}  // namespace shardit
