#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {

INSTANTIATE_OP_CASES(Linear, LinearCases());
INSTANTIATE_OP_CASES(Mlp, MlpCases());
INSTANTIATE_OP_CASES(PatchProjection, PatchProjectionCases());
INSTANTIATE_OP_CASES(Split, SplitCases());

}  // namespace shardit
