// Op cases on the CPU. For every case:
//
//   - forward against the naive version, recorded and in inference mode, on every instruction set of the machine;
//   - every gradient against central differences of the naive version, with all outputs and with each output alone in
//     use, on every instruction set;
//   - destinations overwritten, added to, allocated afresh, strided, and reached through other nodes;
//   - each input alone wanting a gradient, and deferred weight gradients: the same bits as all at once;
//   - 1, 2 and 3 threads: the same bits;
//   - under --bench, for the cases marked `timed`: microseconds and GB/s (every input and output once) on 1 and 2
//     threads. Timed cases are not checked: their shapes may be too large for the naive version.
//
//   INSTANTIATE_OP_CASES(Silu, SiluCases());        // in tests/core/ops/small_ops_test.cc
#pragma once

#include <vector>

#include "gtest/gtest.h"
#include "tests/core/op_case.h"

namespace shardit {

// The cases that are checked, and those that are timed (none unless the program was called with --bench).
std::vector<OpCase> CheckedCases(std::vector<OpCase> cases);
std::vector<OpCase> TimedCases(std::vector<OpCase> cases);

class OpCaseTest : public ::testing::TestWithParam<OpCase> {};
class OpTimingTest : public ::testing::TestWithParam<OpCase> {};

#define INSTANTIATE_OP_CASES(op, cases)                                                           \
  INSTANTIATE_TEST_SUITE_P(op, OpCaseTest, ::testing::ValuesIn(CheckedCases(cases)), OpCaseName); \
  INSTANTIATE_TEST_SUITE_P(op, OpTimingTest, ::testing::ValuesIn(TimedCases(cases)), OpCaseName)

}  // namespace shardit
