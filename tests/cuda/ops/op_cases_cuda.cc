#include "tests/cuda/ops/op_cases_cuda.h"

#include <algorithm>
#include <string>
#include <thread>

#include "core/cuda/device_query.h"
#include "tests/cuda/wants_gpus.h"

namespace shardit {
namespace {

constexpr int64_t kSmallCaseBytes = int64_t{4} << 20;  // for all tensors of a run
constexpr double kForwardFactor = 2, kBackwardFactor = 3;

std::vector<double> Wide(const Floats& values) { return {values.begin(), values.end()}; }

std::vector<double> Rounded(const std::vector<double>& values) {
  std::vector<double> rounded;
  for (const double value : values) rounded.push_back(ToBf16(value));
  return rounded;
}

std::string Named(const char* what, size_t index) { return std::string(what) + " " + std::to_string(index); }

}  // namespace

CudaOpCase::Contexts* CudaOpCase::contexts_ = nullptr;

bool OnCudaEmulator() {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  return !devices.empty() && devices[0].name.starts_with("Emulated");
}

std::vector<OpCase> SmallCudaCases() {
  std::vector<OpCase> cases = AllOpCases();
  std::erase_if(cases, [](const OpCase& op) { return op.timed || op.large; });
  return cases;
}

std::vector<OpCase> LargeCudaCases() {
  if (OnCudaEmulator()) return {};
  std::vector<OpCase> cases = AllOpCases();
  std::erase_if(cases, [](const OpCase& op) { return !op.large; });
  return cases;
}

void CudaOpCase::SetUp() { SKIP_WITHOUT_GPUS(1); }

RankContext& CudaOpCase::Context(bool tf32) {
  std::unique_ptr<RankContext>& context = tf32 ? contexts_->tf32 : contexts_->fp32;
  if (context == nullptr) context = std::make_unique<RankContext>(Device::Cuda(0), CudaOptions{.tf32 = tf32}, 1);
  return *context;
}

OpRunResult CudaOpCase::Run(const OpProblem& problem, const OpRunOptions& options, bool tf32) {
  RankContext& context = Context(tf32);
  context.allocator().Trim();
  if (!problem.op.large) context.allocator().Reserve(kSmallCaseBytes);
  return RunOp(context, problem, options);
}

OpRunner CudaOpCase::Runner(const OpProblem& problem) {
  return [&problem](const OpRunOptions& options) { return Run(problem, options); };
}

OpRunResult CudaOpCase::RunOnCpu(const OpProblem& problem) {
  OpProblem fp32 = problem;
  fp32.dtype = DType::kF32;
  const int threads = problem.op.large ? static_cast<int>(std::max(1u, std::thread::hardware_concurrency())) : 1;
  RankContext context(threads);
  return RunOp(context, fp32);
}

void ExpectOutputsClose(const OpRunResult& got, const OpRunResult& want, double tolerance) {
  ASSERT_EQ(got.outputs.size(), want.outputs.size());
  for (size_t i = 0; i < want.outputs.size(); ++i) {
    ExpectClose(got.outputs[i], Wide(want.outputs[i]), tolerance, Named("output", i));
  }
}

void ExpectGradsClose(const OpRunResult& got, const OpRunResult& want, double tolerance) {
  ASSERT_EQ(got.grads.size(), want.grads.size());
  for (size_t i = 0; i < want.grads.size(); ++i) {
    ExpectClose(got.grads[i], Wide(want.grads[i]), tolerance, Named("gradient", i));
  }
}

void ExpectOutputsWithinTwin(const OpProblem& problem, const OpRunResult& got, const OpRunResult& want) {
  ASSERT_EQ(got.outputs.size(), want.outputs.size());
  // The naive version of large cases takes too long.
  const bool has_twin = problem.op.twin != nullptr && !problem.op.large;
  const Arrays twins = has_twin ? problem.op.twin(InputArrays(problem)) : Arrays();
  for (size_t i = 0; i < want.outputs.size(); ++i) {
    const std::vector<double> truth = Wide(want.outputs[i]);
    ExpectWithinTwin(got.outputs[i], truth, Rounded(has_twin ? twins[i].values : truth), kForwardFactor,
                     Named("output", i));
  }
}

void ExpectGradsWithinTwin(const OpProblem& problem, const OpRunResult& got, const OpRunResult& want) {
  ASSERT_EQ(got.grads.size(), want.grads.size());
  const bool has_twin = problem.op.twin_grads != nullptr && !problem.op.large;
  Arrays seeds, twins;
  if (has_twin) {
    const Arrays outputs = NaiveOutputs(problem);
    for (size_t i = 0; i < outputs.size(); ++i) {
      seeds.emplace_back(outputs[i].shape);
      seeds.back().values = Wide(problem.seeds[i]);
    }
    twins = problem.op.twin_grads(InputArrays(problem), seeds);
  }
  for (size_t i = 0; i < want.grads.size(); ++i) {
    const std::vector<double> truth = Wide(want.grads[i]);
    ExpectWithinTwin(got.grads[i], truth, Rounded(has_twin ? twins[i].values : truth), kBackwardFactor,
                     Named("gradient", i));
  }
}

}  // namespace shardit
