// Figures of training steps, computed from the spans of all ranks: how much of the pipeline stood idle, and how much
// communication was hidden behind compute. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/timeline.h"

namespace shardit {

// A Span that has left its rank. Times in nanoseconds of rank 0's steady clock.
struct TraceSpan {
  SpanKind kind = SpanKind::kForward;
  std::string name;
  int64_t step = -1;
  int32_t micro_batch = -1;
  int32_t part = -1;
  int64_t bytes = 0;
  int64_t begin = 0, end = 0;
};

struct RankTrace {
  std::string label;  // "rank 3 (pp=1 dp=1 tp=0)"
  std::vector<TraceSpan> spans;
};

struct StepFigures {
  int64_t step = 0;
  double ms = 0;  // from the first to the last forward, backward or weight gradient of any rank: "passes"
  // Of the ranks' time between these: the share outside of passes, and the ratio of that time to the time in them,
  // which is what formulas give ((p - 1) / m for 1F1B).
  double idle_share = 0;
  double bubble = 0;
  // By rank: the compute thread blocked on communication, waits for other pipeline stages included.
  std::vector<double> exposed_ms;
  // Of the time that communication was under way on a rank, the share in which its compute thread was not blocked on
  // any; 1 where there was none.
  double overlap_share = 1;
};

// Of every step with a pass, in ascending order.
std::vector<StepFigures> FiguresOf(const std::vector<RankTrace>& ranks);

}  // namespace shardit
