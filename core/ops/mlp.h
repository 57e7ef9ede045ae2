// Mlp: y = gelu(x W1^T + b1) W2^T + b2 with the tanh form of GELU (arXiv 1606.08415; DiT's feed-forward layer).
//
//   x [..., D] dense, w1 [F, D], b1 [F], w2 [D2, F], b2 [D2] or an undefined Var, y [..., D2]; fp32, fp32 accumulation.
// One node for both layers, so that GELU is part of the first product's store and its derivative part of the store of
// the product that makes its gradient; no element-wise pass touches the [.., F] tensors. Saved: x, the pre-activation
// and the activation, [.., F] each. The weight part is deferrable (it then keeps the pre-activation's gradient in the
// place of the pre-activation). Deterministic for every number of threads.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var Mlp(Tape& tape, const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2);

}  // namespace shardit
