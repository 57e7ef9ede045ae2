// Layer norm over the last dim (Ba et al., arXiv 1607.06450), affine or modulated by the conditioning (adaLN: Peebles
// and Xie, "Scalable diffusion models with Transformers", arXiv 2212.09748, section 3.2).
//
//   xhat = (x - mean) / sqrt(var + eps), mean and biased variance over D
//   LayerNorm:          y = xhat * gamma + beta              gamma, beta [D] dense
//   LayerNormModulate:  y = xhat * (1 + scale[n]) + shift[n] shift, scale [N, D], rows contiguous, any row stride
// x, y [N, T, D] dense. fp32; rows are summed in wide lanes, gradients of gamma, beta, shift and scale over tokens in a
// fixed order: the same bits for every number of threads. Gradients of shift and scale may be strided like them.
// Saved: x, mean and 1/std per row, and gamma or scale. Failure: shapes that do not fit are a CHECK.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var LayerNorm(Tape& tape, const Var& x_NTD, const Var& gamma_D, const Var& beta_D, float eps = 1e-6f);
Var LayerNormModulate(Tape& tape, const Var& x_NTD, const Var& shift_ND, const Var& scale_ND, float eps = 1e-6f);

}  // namespace shardit
