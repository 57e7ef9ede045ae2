#include "tests/core/op_case_cpu.h"

#include <string>

#include "core/base/simd_targets.h"
#include "hwy/highway.h"
#include "tests/core/op_checks.h"
#include "tests/core/op_timing.h"

namespace shardit {
namespace {

// Calls body(name) with every instruction set in turn forced on the kernels.
template <class Body>
void OnEveryTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    body(std::string(hwy::TargetName(target)));
    hwy::SetSupportedTargetsForTest(0);
  }
}

OpRunResult RunOnCpu(const OpProblem& problem, const OpRunOptions& options, int threads = 1) {
  RankContext context(threads);
  return RunOp(context, problem, options);
}

}  // namespace

std::vector<OpCase> CheckedCases(std::vector<OpCase> cases) {
  std::erase_if(cases, [](const OpCase& op) { return op.timed || op.large; });
  return cases;
}

std::vector<OpCase> TimedCases(std::vector<OpCase> cases) {
  std::erase_if(cases, [bench = BenchRequested()](const OpCase& op) { return !op.timed || !bench; });
  return cases;
}

TEST_P(OpCaseTest, ForwardMatchesNaive) {
  const OpProblem problem = MakeProblem(GetParam());
  const Arrays want = NaiveOutputs(problem);
  OnEveryTarget([&](const std::string& target) {
    const OpRunResult got = RunOnCpu(problem, {});
    for (size_t i = 0; i < want.size(); ++i) {
      ExpectClose(got.outputs[i], want[i].values, GetParam().tolerance, target + ", output " + std::to_string(i));
    }
    ExpectSameBits(RunOnCpu(problem, {.inference = true}).outputs, got.outputs, target + ", inference");
  });
}

TEST_P(OpCaseTest, GradientMatchesDifferences) {
  const OpProblem problem = MakeProblem(GetParam());
  for (const int only : SeedChoices(problem)) {
    const std::vector<Probe> probes = MakeProbes(problem, only);
    OnEveryTarget([&](const std::string& target) {
      const OpRunResult got = RunOnCpu(problem, {.only_output = only});
      if (probes.empty()) return;
      ASSERT_EQ(got.grads.size(), problem.inputs.size()) << "the op recorded no node";
      ExpectDerivatives(got.grads, probes, GetParam().grad_tolerance, target + ", seed " + std::to_string(only));
    });
  }
}

TEST_P(OpCaseTest, DestinationsAreOverwrittenOrAddedTo) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckDestinations(problem, [&](const OpRunOptions& options) { return RunOnCpu(problem, options); });
}

TEST_P(OpCaseTest, GradientsPassThroughNodesAndAddUp) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckUses(problem, [&](const OpRunOptions& options) { return RunOnCpu(problem, options); });
}

TEST_P(OpCaseTest, InputsAloneAndDeferredGiveTheSameBits) {
  const OpProblem problem = MakeProblem(GetParam());
  CheckPartialGradients(problem, [&](const OpRunOptions& options) { return RunOnCpu(problem, options); });
}

TEST_P(OpCaseTest, ThreadsAgreeBitwise) {
  const OpProblem problem = MakeProblem(GetParam());
  const OpRunResult one = RunOnCpu(problem, {});
  for (const int threads : {2, 3}) {
    const OpRunResult many = RunOnCpu(problem, {}, threads);
    ExpectSameBits(many.outputs, one.outputs, std::to_string(threads) + " threads, outputs");
    ExpectSameBits(many.grads, one.grads, std::to_string(threads) + " threads, gradients");
  }
}

TEST_P(OpTimingTest, Time) {
  for (const int threads : {1, 2}) {
    RankContext context(threads);
    TimeOp(context, MakeProblem(GetParam()), std::to_string(threads) + (threads > 1 ? " threads" : " thread"));
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OpTimingTest);

}  // namespace shardit
