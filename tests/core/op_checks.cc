#include "tests/core/op_checks.h"

#include <string>

namespace shardit {
namespace {

// Of a sum of two gradients, relative to its largest value. In bf16 both terms and the sum are rounded: three half
// units in the last place of 8 bits.
double SumTolerance(const OpProblem& problem, size_t input) {
  return problem.GradType(input) == DType::kBF16 ? 1.0 / 128 : 1e-6;
}

}  // namespace

void CheckDestinations(const OpProblem& problem, const OpRunner& run) {
  for (const int only : SeedChoices(problem)) {
    const OpRunResult fresh = run({.only_output = only});
    const OpRunResult over = run({.destinations = Destinations::kOverwrite, .only_output = only});
    ExpectSameBits(over.grads, fresh.grads, "overwritten");
    if (!problem.op.adds_to_gradients) continue;
    const OpRunResult added = run({.destinations = Destinations::kAccumulate, .only_output = only});
    for (size_t i = 0; i < fresh.grads.size(); ++i) {
      std::vector<double> want(fresh.grads[i].begin(), fresh.grads[i].end());
      for (size_t k = 0; k < want.size(); ++k) want[k] += double{problem.priors[i][k]};
      ExpectClose(added.grads[i], want, SumTolerance(problem, i), "added to, input " + std::to_string(i));
    }
  }
}

void CheckUses(const OpProblem& problem, const OpRunner& run) {
  for (const int only : SeedChoices(problem)) {
    const OpRunResult fresh = run({.only_output = only});
    ExpectSameBits(run({.through_nodes = true, .only_output = only}).grads, fresh.grads, "through nodes");
    if (!problem.op.adds_to_gradients) continue;
    for (const bool through_nodes : {false, true}) {
      const OpRunResult twice = run({.through_nodes = through_nodes, .twice = true, .only_output = only});
      for (size_t i = 0; i < fresh.grads.size(); ++i) {
        std::vector<double> want(fresh.grads[i].begin(), fresh.grads[i].end());
        for (double& value : want) value *= 2;
        ExpectClose(twice.grads[i], want, SumTolerance(problem, i), "used twice, input " + std::to_string(i));
      }
    }
  }
}

void CheckPartialGradients(const OpProblem& problem, const OpRunner& run) {
  const OpRunResult all = run({});
  ExpectSameBits(run({.defer_weights = true}).grads, all.grads, "deferred");
  if (!problem.op.inputs_independent) return;
  for (size_t i = 0; i < all.grads.size(); ++i) {
    if (!problem.op.inputs[i].wants_grad) continue;
    const OpRunResult alone = run({.only_input = static_cast<int>(i)});
    ExpectSameBits(alone.outputs, all.outputs, "only input " + std::to_string(i));
    ASSERT_EQ(alone.grads.size(), all.grads.size());
    ExpectSameBits({alone.grads[i]}, {all.grads[i]}, "only input " + std::to_string(i));
  }
}

}  // namespace shardit
