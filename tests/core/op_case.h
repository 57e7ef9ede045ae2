// OpCase: one operation, described once by its inputs, how to run it and a naive float64 version of its forward. Two
// runners derive all else from that, for every case:
//
//   - on the CPU (op_case_cpu.h): parity, gradients and destinations on every instruction set, and --bench;
//   - on CUDA (tests/cuda/ops/op_cases_*): the same in fp32, TF32 and bf16.
//
// The cases of an op are made by a function in tests/core/ops/*_cases.cc, declared in op_cases.h, so that both find
// them.
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

// What an input is to a run in bf16 on a GPU. In fp32 runs everything is fp32.
enum class OpRole {
  kActivation,  // value and gradient are bf16
  kParameter,   // its value is bf16, its gradient fp32
  kData,        // fp32 always
};

struct OpInput {
  Shape shape;
  bool strided = false;  // [rows, columns] only: value and gradient are columns of wider tensors
  bool wants_grad = true;
  double spread = 1;  // standard deviation of its values, drawn from a normal distribution
  OpRole role = OpRole::kActivation;
};

using Arrays = std::vector<Array>;

struct OpCase {
  std::string name;  // letters, digits and underscores
  std::vector<OpInput> inputs;
  std::function<std::vector<Var>(Tape& tape, const std::vector<Var>& inputs)> run;
  std::function<Arrays(const Arrays& inputs)> naive;
  // Largest errors allowed in fp32, relative to the largest value of the tensor.
  double tolerance = 2e-6;
  double grad_tolerance = 1e-5;
  bool adds_to_gradients = true;   // false: the op must be the only consumer of its inputs
  bool inputs_independent = true;  // false: only gradients of all inputs together are supported
  bool timed = false;              // timed by --bench on the CPU, not checked
  // CUDA, bf16: the naive version as it would be written in bf16, every tensor between its steps rounded; its error is
  // the measure of the kernel's (their outputs and gradients are rounded by the runner). Null where there is no such
  // tensor. `twin_grads` returns the gradients of all inputs, given those of the outputs.
  std::function<Arrays(const Arrays& inputs)> twin;
  std::function<Arrays(const Arrays& inputs, const Arrays& seeds)> twin_grads;
  bool products = false;  // has matrix products, which TF32 rounds
  // The shapes of a real model: on a GPU only, against the CPU's fp32, and timed there by --bench.
  bool large = false;
};

OpCase Timed(OpCase op);
OpCase Large(OpCase op);

// "op_2x3x72": a case's name from its sizes.
std::string CaseName(const char* op, std::initializer_list<int64_t> sizes, const char* variant = "");

std::ostream& operator<<(std::ostream& out, const OpCase& op_case);
std::string OpCaseName(const ::testing::TestParamInfo<OpCase>& info);

// Whether the program was called with --bench.
bool BenchRequested();

// The nearest bf16, and every element's.
double ToBf16(double value);
Array ToBf16(Array array);

}  // namespace shardit
