// Op cases on CUDA in bf16: values and gradients of activations are bf16, gradients of parameters fp32 (OpRole). What
// is right is the fp64 version, and for gradients the CPU's op in fp32, which is as good as exact here, on the same
// bf16 numbers.
#include "tests/cuda/ops/op_cases_cuda.h"

namespace shardit {
namespace {

class CudaOpCaseBf16 : public CudaOpCase {};

TEST_P(CudaOpCaseBf16, ForwardIsWithinTwiceTheTwin) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  const OpRunResult got = Run(problem);
  OpRunResult want;
  for (const Array& output : NaiveOutputs(problem))
    want.outputs.emplace_back(output.values.begin(), output.values.end());
  ExpectOutputsWithinTwin(problem, got, want);
  ExpectSameBits(Run(problem, {.inference = true}).outputs, got.outputs, "inference");
}

TEST_P(CudaOpCaseBf16, GradientIsWithinThreeTimesTheTwin) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  ExpectGradsWithinTwin(problem, Run(problem), RunOnCpu(problem));
}

TEST_P(CudaOpCaseBf16, DestinationsAreOverwrittenOrAddedTo) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  CheckDestinations(problem, Runner(problem));
}

TEST_P(CudaOpCaseBf16, GradientsPassThroughNodesAndAddUp) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  CheckUses(problem, Runner(problem));
}

TEST_P(CudaOpCaseBf16, InputsAloneDeferredAndAgainGiveTheSameBits) {
  const OpProblem problem = MakeProblem(GetParam(), DType::kBF16);
  CheckPartialGradients(problem, Runner(problem));
  const OpRunResult one = Run(problem), other = Run(problem);
  ExpectSameBits(other.outputs, one.outputs, "again, outputs");
  ExpectSameBits(other.grads, one.grads, "again, gradients");
}

INSTANTIATE_TEST_SUITE_P(Small, CudaOpCaseBf16, ::testing::ValuesIn(SmallCudaCases()), OpCaseName);

}  // namespace
}  // namespace shardit
