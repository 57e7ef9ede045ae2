// The two gradient products that every op with a linear layer inside shares.
#pragma once

#include "core/autograd/node.h"

namespace shardit {

// dx [..., in] (+)= dy [..., out] w [out, in].
void LinearInputGrad(RankContext& context, const Tensor& dy, const Tensor& w, const GradDestination& dx);

// dw [out, in] (+)= dy^T x and, where db.tensor is defined, db [out] (+)= column sums of dy, in one pass over dy. A
// bias that wants a gradient while its weight does not is a CHECK.
void LinearWeightGrad(RankContext& context, const Tensor& dy, const Tensor& x, const GradDestination& dw,
                      const GradDestination& db);

}  // namespace shardit
