#include "core/ops/gated_residual.h"

#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(GatedResidual, GatedResidualCases());

// The two inputs of a sum must not share one gradient buffer: what is later added to one would show in the other.
TEST(GatedResidual, GradientsOfASumAreApart) {
  for (const bool norm : {false, true}) {
    RankContext context(1);
    Leaf a{.name = "a", .value = Tensor::Zeros(context.allocator(), {1, 1, 4})};
    Leaf b{.name = "b", .value = Tensor::Zeros(context.allocator(), {1, 1, 4})};
    const Var row(Tensor::Zeros(context.allocator(), {1, 4}));
    Tape tape(context);
    const Var sum = norm ? GatedResidualNorm(tape, Var(a), Var(), Var(b), row, row).x : Add(tape, Var(a), Var(b));
    Tensor seed = Tensor::Zeros(context.allocator(), {1, 1, 4});
    tape.Backward({{sum, seed}});
    EXPECT_NE(a.grad.storage_id(), b.grad.storage_id());
  }
}

}  // namespace
}  // namespace shardit
