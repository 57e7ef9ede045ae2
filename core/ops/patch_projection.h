// PatchProjection: patches times the patch convolution's weight, plus bias, plus the position table:
//   y[n, t, :] = patches[n, t, :] W^T + b + position[t, :].
//
//   patches [N, T, E] (a constant: no gradient flows to the image), w [D, C, p, p] with E = C p p, b [D],
//   position [T, D] (fixed), y [N, T, D]; fp32. Saved: patches. The weight part is deferrable.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var PatchProjection(Tape& tape, const Tensor& patches_NTE, const Var& w, const Var& b, const Tensor& position_TD);

}  // namespace shardit
