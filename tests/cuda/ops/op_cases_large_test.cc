// Op cases of real models' shapes, on a GPU: against the CPU's fp32 op on the same numbers, and, under --bench, timed:
//
//   cuda_tests --gtest_filter='*CudaOpTiming*' --bench
#include "tests/core/op_timing.h"
#include "tests/cuda/ops/op_cases_cuda.h"

namespace shardit {
namespace {

// Relative to the largest value of a tensor: sums of thousands of terms in two orders.
constexpr double kTolerance = 2e-5;

class CudaOpCaseLarge : public CudaOpCase {};

TEST_P(CudaOpCaseLarge, Fp32MatchesTheCpu) {
  const OpProblem problem = MakeProblem(GetParam());
  const OpRunResult got = Run(problem), want = RunOnCpu(problem), again = Run(problem);
  ExpectOutputsClose(got, want, kTolerance);
  ExpectGradsClose(got, want, kTolerance);
  ExpectSameBits(again.outputs, got.outputs, "again, outputs");
  ExpectSameBits(again.grads, got.grads, "again, gradients");
}

TEST_P(CudaOpCaseLarge, Bf16IsWithinTheTwin) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  const OpRunResult got = Run(problem), want = RunOnCpu(problem), again = Run(problem);
  ExpectOutputsWithinTwin(problem, got, want);
  ExpectGradsWithinTwin(problem, got, want);
  ExpectSameBits(again.outputs, got.outputs, "again, outputs");
  ExpectSameBits(again.grads, got.grads, "again, gradients");
}

INSTANTIATE_TEST_SUITE_P(Large, CudaOpCaseLarge, ::testing::ValuesIn(LargeCudaCases()), OpCaseName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaOpCaseLarge);

class CudaOpTiming : public CudaOpCase {};

TEST_P(CudaOpTiming, Time) {
  TimeOp(Context(), MakeProblem(GetParam(), DType::kBF16), "bf16");
  TimeOp(Context(), MakeProblem(GetParam()), "fp32");
  if (GetParam().products) TimeOp(Context(true), MakeProblem(GetParam()), "tf32");
}

INSTANTIATE_TEST_SUITE_P(Large, CudaOpTiming,
                         ::testing::ValuesIn(BenchRequested() ? LargeCudaCases() : std::vector<OpCase>()), OpCaseName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaOpTiming);

}  // namespace
}  // namespace shardit
