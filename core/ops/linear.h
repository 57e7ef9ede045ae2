// Linear: y = x W^T + b.
//
//   x [..., in] dense, w [out, in], b [out] or an undefined Var, y [..., out]; one type,
//   fp32 accumulation; dW and db fp32.
//   dx = dy W      dW (+)= dy^T x      db (+)= column sums of dy
// Saved: x. The weight part of backward (dW, db) is deferrable. W's gradient is written straight into its destination
// (overwritten by the first use of a step, added to by later ones). Deterministic for every number of threads.
// Failure: shapes that do not fit are a CHECK.
#pragma once

#include <span>
#include <vector>

#include "core/autograd/tape.h"

namespace shardit {

Var Linear(Tape& tape, const Var& x, const Var& w, const Var& b);

// Layers of one shape on one x, as one batched product where their weights, and their biases, lie at equal distances
// (blocks in a flat range do): the values only, one a layer. LinearOf records the node of one.
std::vector<Tensor> LinearValues(RankContext& context, const Tensor& x, std::span<const Tensor> weights,
                                 std::span<const Tensor> biases);
// Linear, whose y has been computed.
Var LinearOf(Tape& tape, const Var& x, const Var& w, const Var& b, Tensor y);

}  // namespace shardit
