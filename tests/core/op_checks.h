// What must hold of an op whatever it runs on and in: how it treats destinations, several uses and partial wishes.
// `run` runs the problem's op; each function fails the test where a promise is broken.
#pragma once

#include <functional>

#include "tests/core/op_run.h"

namespace shardit {

using OpRunner = std::function<OpRunResult(const OpRunOptions& options)>;

// Gradients are the same bits in given destinations full of NaN as in fresh ones, and are added to what is there.
void CheckDestinations(const OpProblem& problem, const OpRunner& run);
// Gradients are the same bits where they pass through nodes, and two uses add up.
void CheckUses(const OpProblem& problem, const OpRunner& run);
// Deferred weight parts, and an input that alone wants a gradient, give the same bits.
void CheckPartialGradients(const OpProblem& problem, const OpRunner& run);

}  // namespace shardit
