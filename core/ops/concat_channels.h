// Concatenation along the innermost dim: the join of an Inception block's branches.
//
//   parts [..., C_i], dense, of one type, equal in all dims but the last; y [..., sum of C_i], in the order of the
//   parts.
// At least one part. Inference only: a part that wants a gradient while the tape records is a CHECK, as are shapes and
// types that do not fit. Values are copied, to the bit.
#pragma once

#include <vector>

#include "core/autograd/tape.h"

namespace shardit {

Var ConcatChannels(Tape& tape, const std::vector<Var>& parts_NHWC);

}  // namespace shardit
