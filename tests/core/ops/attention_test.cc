#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {

INSTANTIATE_OP_CASES(Attention, AttentionCases());

}  // namespace shardit
