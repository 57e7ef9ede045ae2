// Op cases on CUDA: what the test files op_cases_*_test.cc share. The same cases run on a GPU and, but for the large
// ones, in the emulator.
#pragma once

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/core/op_checks.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {

// Of AllOpCases: those of a few elements, and those of real models (none in the emulator, which would take hours).
std::vector<OpCase> SmallCudaCases();
std::vector<OpCase> LargeCudaCases();

bool OnCudaEmulator();

// One context a suite; a test without a GPU skips itself.
class CudaOpCase : public ::testing::TestWithParam<OpCase> {
 protected:
  static void SetUpTestSuite() { contexts_ = new Contexts; }
  static void TearDownTestSuite() {
    delete contexts_;
    contexts_ = nullptr;
  }
  void SetUp() override;

  static RankContext& Context(bool tf32 = false);
  // Runs on fresh memory: in the emulator that is all NaN.
  static OpRunResult Run(const OpProblem& problem, const OpRunOptions& options = {}, bool tf32 = false);
  static OpRunner Runner(const OpProblem& problem);
  // The same numbers through the CPU's fp32 op.
  static OpRunResult RunOnCpu(const OpProblem& problem);

 private:
  struct Contexts {
    std::unique_ptr<RankContext> fp32, tf32;
  };
  static Contexts* contexts_;
};

// An element may be off by `tolerance` times the largest of its tensor.
void ExpectOutputsClose(const OpRunResult& got, const OpRunResult& want, double tolerance);
void ExpectGradsClose(const OpRunResult& got, const OpRunResult& want, double tolerance);

// bf16 by twins. Outputs: the error against `want` is at most twice that of the naive version in bf16; gradients: three
// times. The naive version is the case's twin, or, where there is none, `want` rounded.
void ExpectOutputsWithinTwin(const OpProblem& problem, const OpRunResult& got, const OpRunResult& want);
void ExpectGradsWithinTwin(const OpProblem& problem, const OpRunResult& got, const OpRunResult& want);

}  // namespace shardit
