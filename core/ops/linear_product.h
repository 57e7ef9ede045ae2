// The three matrix products of a linear layer, shared by every op that has one inside. x [..., in], w [out, in] (or any
// dense tensor of out rows), y and dy [..., out]; rows are the product of the leading dims.
#pragma once

#include "core/autograd/node.h"
#include "core/ops/gemm.h"

namespace shardit {

// Arguments of y = x w^T, with y = x w^T + bias where `bias` is defined. The caller may add an epilogue of its own.
GemmArgs LinearForward(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);

// Arguments of dx = dy w.
GemmArgs LinearInputGrad(const Tensor& dy, const Tensor& w, const Tensor& dx);

// dw (+)= dy^T x and, where db.tensor is defined, db [out] (+)= column sums of dy, in one pass over dy. A bias that
// wants a gradient while its weight does not is a CHECK.
void LinearWeightGrad(RankContext& context, const Tensor& dy, const Tensor& x, const GradDestination& dw,
                      const GradDestination& db);

}  // namespace shardit
