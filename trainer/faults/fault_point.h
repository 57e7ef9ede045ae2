// Faults on order, for tests: every fault that the environment variable SHARDIT_FAULT can plant, in one place. Without
// the variable nothing here does anything.
//
//   SHARDIT_FAULT = fault[,fault...]      fault = <what>:<where>:rank<r>:step<s>
//     stop:<phase>:rank1:step3            the process stops itself (SIGSTOP) when rank 1 enters the phase of step 3
//     block:<phase>:rank1:step3           its compute thread sleeps for ever there; its other threads live on
//     exit:<phase>:rank1:step3            the process is killed there (SIGKILL)
//     slow:<phase>:rank1:step3            rank 1 sleeps for 20 ms there, in step 3 and in every later one
//     poison:gradient:rank1:step3         one element of rank 1's own gradient of step 3 becomes NaN
//     flip:parameter:rank1:step3          one bit of rank 1's copy of a parameter flips after step 3
//   <phase> is a name of trainer/faults/beacon.h; steps count completed optimizer steps, as in metrics.jsonl: the first
//   step is 1. A fault strikes once in a process, but for the slow.
//
// Points of a checkpoint's commit are elsewhere: KillPoint in core/base/file.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor/tensor.h"

namespace shardit {

class FaultPlan {
 public:
  // Of this rank, from the variable's text; InvalidArgument where it does not follow the grammar.
  static absl::StatusOr<FaultPlan> Parse(absl::string_view text, int rank);
  // From the environment; a text that does not parse aborts the process: a test that plants nothing proves nothing.
  static FaultPlan FromEnvironment(int rank);

  FaultPlan() = default;

  // Where a rank enters a phase: stops, blocks, kills or sleeps here if that is planned. The stop comes after a second,
  // so that the rank's beat has been written from this phase, as it would be in a phase of real length.
  void Strike(absl::string_view phase, int64_t step);

  // Poisons an element of `gradients`, or flips a bit of `parameters` (both dense fp32), if that is planned for this
  // step. True if it did; waits for a GPU that holds them.
  bool PoisonGradient(int64_t step, const Tensor& gradients);
  bool FlipParameter(int64_t step, const Tensor& parameters);
  // Nothing is planned, or everything has struck for good: what a step does is up to its inputs alone.
  bool empty() const { return faults_.empty(); }

 private:
  struct Fault {
    std::string what, where;
    int64_t step = 0;
  };
  bool Take(absl::string_view what, absl::string_view where, int64_t step);

  std::vector<Fault> faults_;  // those of this rank that may still strike
};

}  // namespace shardit
