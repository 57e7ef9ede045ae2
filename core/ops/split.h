// SplitColumns: views of equal column ranges of a [N, parts * D] tensor, such as the shift, scale and gate that one
// modulation layer makes for a block. No element moves: the gradients of the parts are written side by side into one
// tensor, which is the gradient of the whole.
#pragma once

#include <vector>

#include "core/autograd/tape.h"

namespace shardit {

std::vector<Var> SplitColumns(Tape& tape, const Var& x_NE, int64_t parts);

}  // namespace shardit
