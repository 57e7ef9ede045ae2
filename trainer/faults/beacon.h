// Beacon: what the compute thread of a rank is doing, for its watchdog: the phase and the step. Entering a phase is a
// few stores, and the place where planned faults strike.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/strings/string_view.h"
#include "trainer/faults/fault_point.h"

namespace shardit {

enum class Phase : uint8_t {
  kStartUp,     // before the first step
  kDataWait,    // blocked on the loader
  kForward,     // forward of a micro-batch, or a pipeline's steady state
  kBackward,    // backward of a micro-batch
  kCollective,  // blocked on other ranks: flags, the last buckets, losses
  kUpdate,      // norm, optimizer, EMA, metrics
  kSave,        // blocked on a checkpoint: the copy, the save before, the agreement on it, loading one to go back
  kValidate,    // held-out loss
  kSample,      // a grid of samples, which other ranks than those that draw wait for
};
inline constexpr int kPhases = 9;

// "start_up", "data_wait", "forward", ...
absl::string_view Name(Phase phase);

// One writer, the compute thread, but for pieces(); read from any thread. A reader may see phase and step of two
// neighbouring moments.
class Beacon {
 public:
  explicit Beacon(FaultPlan faults = {}) : faults_(std::move(faults)) {}

  // `step` counts from 1: the step that is being computed, as metrics.jsonl will number it.
  void Enter(Phase phase, int64_t step);

  struct State {
    Phase phase = Phase::kStartUp;
    int64_t step = 0;
    uint64_t entered = 0;      // phases entered so far: it moves when the rank does
    bool first_visit = false;  // the phase was never left before
  };
  State Read() const;

  // For whoever works for a phase out of its thread's sight, such as the writer of a checkpoint: adds one for each
  // piece done.
  std::atomic<uint64_t>& pieces() { return pieces_; }
  uint64_t ReadPieces() const { return pieces_.load(std::memory_order_relaxed); }

  FaultPlan& faults() { return faults_; }  // for the compute thread

 private:
  std::atomic<Phase> phase_{Phase::kStartUp};
  std::atomic<int64_t> step_{0};
  std::atomic<uint64_t> entered_{0};
  std::array<std::atomic<uint64_t>, kPhases> visits_{};
  std::atomic<uint64_t> pieces_{0};
  FaultPlan faults_;
};

}  // namespace shardit
