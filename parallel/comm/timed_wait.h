// Waiting for a collective on the compute thread, seen in the rank's timeline where it is the host that waits.
#pragma once

#include "core/tensor/rank_context.h"
#include "parallel/comm/work.h"

namespace shardit {

// `name` is a string literal: the tag of the collective.
inline void TimedWait(RankContext& context, const Work& work, const char* name) {
  if (work.stream_ordered()) return work.Wait();
  const TimedSpan span(context.timeline(), SpanKind::kWait, name);
  work.Wait();
}

}  // namespace shardit
