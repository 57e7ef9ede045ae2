// Linear: y = x W^T + b.
//
//   x [..., in] dense, w [out, in], b [out] or an undefined Var, y [..., out]; fp32, fp32 accumulation.
//   dx = dy W      dW (+)= dy^T x      db (+)= column sums of dy
// Saved: x. The weight part of backward (dW, db) is deferrable. W's gradient is written straight into its destination
// (overwritten by the first use of a step, added to by later ones). Deterministic for every number of threads.
// Failure: shapes that do not fit are a CHECK.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var Linear(Tape& tape, const Var& x, const Var& w, const Var& b);

}  // namespace shardit
