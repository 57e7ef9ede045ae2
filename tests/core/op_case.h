// OpCase: one operation, described once by its inputs, how to run it and a naive float64 version of its forward. The
// runner derives from that, for every case:
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
//   INSTANTIATE_OP_CASES(Silu, SiluCases());        // in core/ops/silu_test.cc; SiluCases() returns
//   std::vector<OpCase>
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <ostream>
#include <string>
#include <vector>

#include "core/autograd/tape.h"
#include "gtest/gtest.h"

namespace shardit {

// A dense row-major array of doubles, indexed as a(i, j, ...) with as many indices as dims.
struct Array {
  explicit Array(Shape dims) : shape(dims), values(static_cast<size_t>(dims.elements())) {}

  template <class... Index>
  double& operator()(Index... index) {
    return values[Offset({static_cast<int64_t>(index)...})];
  }
  template <class... Index>
  double operator()(Index... index) const {
    return values[Offset({static_cast<int64_t>(index)...})];
  }
  int64_t dim(int index) const { return shape[index]; }

  Shape shape;
  std::vector<double> values;

 private:
  size_t Offset(std::initializer_list<int64_t> index) const {
    CHECK_EQ(static_cast<int>(index.size()), shape.ndim());
    int64_t offset = 0;
    int dim = 0;
    for (const int64_t i : index) offset = offset * shape[dim++] + i;
    return static_cast<size_t>(offset);
  }
};

struct OpInput {
  Shape shape;
  bool strided = false;  // [rows, columns] only: value and gradient are columns of wider tensors
  bool wants_grad = true;
  double spread = 1;  // standard deviation of its values, drawn from a normal distribution
};

struct OpCase {
  std::string name;  // letters, digits and underscores
  std::vector<OpInput> inputs;
  std::function<std::vector<Var>(Tape& tape, const std::vector<Var>& inputs)> run;
  std::function<std::vector<Array>(const std::vector<Array>& inputs)> naive;
  // Largest errors allowed, relative to the largest value of the tensor.
  double tolerance = 2e-6;
  double grad_tolerance = 1e-5;
  bool adds_to_gradients = true;   // false: the op must be the only consumer of its inputs
  bool inputs_independent = true;  // false: only gradients of all inputs together are supported
  bool timed = false;
};

// "op_2x3x72": a case's name from its sizes.
std::string CaseName(const char* op, std::initializer_list<int64_t> sizes, const char* variant = "");

std::ostream& operator<<(std::ostream& out, const OpCase& op_case);
std::string OpCaseName(const ::testing::TestParamInfo<OpCase>& info);

// The cases that are checked, and those that are timed (none unless the program was called with --bench).
std::vector<OpCase> CheckedCases(std::vector<OpCase> cases);
std::vector<OpCase> TimedCases(std::vector<OpCase> cases);

class OpCaseTest : public ::testing::TestWithParam<OpCase> {};
class OpTimingTest : public ::testing::TestWithParam<OpCase> {};

#define INSTANTIATE_OP_CASES(op, cases)                                                           \
  INSTANTIATE_TEST_SUITE_P(op, OpCaseTest, ::testing::ValuesIn(CheckedCases(cases)), OpCaseName); \
  INSTANTIATE_TEST_SUITE_P(op, OpTimingTest, ::testing::ValuesIn(TimedCases(cases)), OpCaseName)

}  // namespace shardit
