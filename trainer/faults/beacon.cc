#include "trainer/faults/beacon.h"

namespace shardit {

absl::string_view Name(Phase phase) {
  static constexpr absl::string_view kNames[kPhases] = {"start_up", "data_wait", "forward",  "backward", "collective",
                                                        "update",   "save",      "validate", "sample"};
  return kNames[static_cast<size_t>(phase)];
}

void Beacon::Enter(Phase phase, int64_t step) {
  phase_.store(phase, std::memory_order_relaxed);
  step_.store(step, std::memory_order_relaxed);
  visits_[static_cast<size_t>(phase)].fetch_add(1, std::memory_order_relaxed);
  entered_.fetch_add(1, std::memory_order_release);
  faults_.Strike(Name(phase), step);
}

Beacon::State Beacon::Read() const {
  State state;
  state.entered = entered_.load(std::memory_order_acquire);
  state.phase = phase_.load(std::memory_order_relaxed);
  state.step = step_.load(std::memory_order_relaxed);
  state.first_visit = visits_[static_cast<size_t>(state.phase)].load(std::memory_order_relaxed) <= 1;
  return state;
}

}  // namespace shardit
