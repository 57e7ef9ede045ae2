// ParameterUnits: parameters that are not always in place. A model is a chain of units (the embedding, each block, the
// final layer); it announces when it enters and leaves one, and whoever owns the parameters gathers them ahead of use
// and may take them away in between (ZeRO stage 3, Rajbhandari et al., arXiv 1910.02054, section 5.3). Parameters that
// always lie in place need none of this.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

class ParameterUnits {
 public:
  virtual ~ParameterUnits() = default;

  // The unit's parameters have values when it returns, and keep them until Leave.
  virtual void Enter(Tape& tape, int unit) = 0;
  // Forward of the unit is done; `x` is what it hands on. On a recording tape the returned Var marks the place where
  // backward re-enters the unit: its parameters then have values again until the backward of the tape has left it.
  virtual Var Leave(Tape& tape, int unit, const Var& x) = 0;
};

}  // namespace shardit
