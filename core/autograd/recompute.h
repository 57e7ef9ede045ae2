// Activation recomputation (Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174): a segment
// of the model keeps only its inputs and runs its forward again in backward.
//
// The segment's parameters are declared as leaves, so that the tape knows when their gradients are final. Random
// numbers are keyed by what they are for, so a second run draws the same ones and there is no state to restore.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/autograd/tape.h"

namespace shardit {

// A pure function of its inputs and of the leaves given beside it; it may be called twice.
using Segment = std::function<Var(Tape& tape, std::span<const Var> inputs)>;

// Runs segment(inputs) without recording its inside. `leaves` are all leaves that the segment uses; what they and the
// segment refer to must outlive the tape's backward.
Var Recompute(Tape& tape, std::vector<Var> inputs, std::span<Leaf* const> leaves, Segment segment);

}  // namespace shardit
