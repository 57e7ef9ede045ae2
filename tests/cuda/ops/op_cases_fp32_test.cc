// Op cases on CUDA in fp32 and TF32.
#include "tests/cuda/ops/op_cases_cuda.h"

namespace shardit {
namespace {

// Over the CPU's tolerances: other orders of sums, and exp and rsqrt of 2 units in the last place.
constexpr double kDeviceSlack = 2;
// TF32 keeps 10 bits of a mantissa. Hardware may cut off the others: each factor is then low by up to 2^-10 of itself,
// a product by 2^-9, and the outputs and gradients of an MLP are products of products: 2^-8. Sums of few terms can
// cancel, so tensors of few elements are left out.
constexpr double kTf32Tolerance = 1.0 / 128;
constexpr int64_t kFewElements = 16;

class CudaOpCaseFp32 : public CudaOpCase {};

TEST_P(CudaOpCaseFp32, ForwardMatchesNaive) {
  const OpProblem problem = MakeProblem(GetParam());
  const Arrays want = NaiveOutputs(problem);
  const OpRunResult got = Run(problem);
  for (size_t i = 0; i < want.size(); ++i) {
    ExpectClose(got.outputs[i], want[i].values, kDeviceSlack * GetParam().tolerance, "output " + std::to_string(i));
  }
  ExpectSameBits(Run(problem, {.inference = true}).outputs, got.outputs, "inference");
}

TEST_P(CudaOpCaseFp32, GradientMatchesDifferencesAndTheCpu) {
  constexpr size_t kProbes = 5;  // elements of an input
  const OpProblem problem = MakeProblem(GetParam());
  const OpRunResult got = Run(problem);
  ExpectGradsClose(got, RunOnCpu(problem), kDeviceSlack * GetParam().grad_tolerance);
  for (const int only : SeedChoices(problem)) {
    const std::vector<Probe> probes = MakeProbes(problem, only, kProbes);
    if (probes.empty()) continue;
    ExpectDerivatives(Run(problem, {.only_output = only}).grads, probes, kDeviceSlack * GetParam().grad_tolerance,
                      "seed " + std::to_string(only));
  }
}

TEST_P(CudaOpCaseFp32, DestinationsAreOverwrittenOrAddedTo) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckDestinations(problem, Runner(problem));
}

TEST_P(CudaOpCaseFp32, GradientsPassThroughNodesAndAddUp) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckUses(problem, Runner(problem));
}

TEST_P(CudaOpCaseFp32, InputsAloneDeferredAndAgainGiveTheSameBits) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckPartialGradients(problem, Runner(problem));
  const OpRunResult one = Run(problem), other = Run(problem);
  ExpectSameBits(other.outputs, one.outputs, "again, outputs");
  ExpectSameBits(other.grads, one.grads, "again, gradients");
}

INSTANTIATE_TEST_SUITE_P(Small, CudaOpCaseFp32, ::testing::ValuesIn(SmallCudaCases()), OpCaseName);

class CudaOpCaseTf32 : public CudaOpCase {};

TEST_P(CudaOpCaseTf32, ProductsKeepTenBits) {
  const OpProblem problem = MakeProblem(GetParam());
  const OpRunResult got = Run(problem, {}, true), want = RunOnCpu(problem);
  ExpectOutputsClose(got, want, kTf32Tolerance);
  ExpectGradsClose(got, want, kTf32Tolerance);
}

std::vector<OpCase> ProductCases() {
  std::vector<OpCase> cases = SmallCudaCases();
  std::erase_if(cases, [](const OpCase& op) {
    return !op.products || std::any_of(op.inputs.begin(), op.inputs.end(),
                                       [](const OpInput& input) { return input.shape.elements() < kFewElements; });
  });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Small, CudaOpCaseTf32, ::testing::ValuesIn(ProductCases()), OpCaseName);

}  // namespace
}  // namespace shardit
