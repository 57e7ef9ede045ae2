// Moving whole tokens: the conditioning tokens of the in-context and cross-attention designs (DiT, arXiv 2212.09748,
// section 3.2; in the order t, y).
//
//   AppendTokens:  [N, T, D], t [N, D], y [N, D] -> [N, T + 2, D], t and y last
//   KeepTokens:    [N, S, D] -> [N, keep, D], the first `keep`; the gradient of the others is 0
//   StackTokens:   t [N, D], y [N, D] -> [N, 2, D]
// All dense, except that t and y and their gradients may have any row stride. Copies: bits pass through unchanged. All
// of one type; the gradient of StackTokens' result is gathered in fp32, since every block of a model reads it.
// Saved: nothing. Failure: shapes that do not fit are a CHECK.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var AppendTokens(Tape& tape, const Var& x_NTD, const Var& t_ND, const Var& y_ND);
Var KeepTokens(Tape& tape, const Var& x_NSD, int64_t keep);
Var StackTokens(Tape& tape, const Var& t_ND, const Var& y_ND);

}  // namespace shardit
