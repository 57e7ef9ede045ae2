#include "core/base/timeline.h"

namespace shardit {

void Timeline::BeginStep(int64_t step) {
  if (step == step_) return;
  step_ = step;
  waited_ = {};
  std::erase_if(spans_, [&](const Span& span) { return span.step <= step - kSteps; });
}

void Timeline::Add(Span span) {
  if (!enabled_) return;
  span.step = step_;
  spans_.push_back(span);
}

}  // namespace shardit
