#include "tests/core/op_case.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/simd_targets.h"
#include "core/tensor/rng.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

using Floats = std::vector<float>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kPadding = 3;  // columns on either side of a strided tensor

bool BenchRequested() {
  const std::vector<std::string> arguments = ::testing::internal::GetArgvs();
  return std::find(arguments.begin(), arguments.end(), "--bench") != arguments.end();
}

// Values of a tensor in row-major order, and back; the tensor may be a strided [rows, columns].
int64_t ElementOffset(const Tensor& tensor, int64_t i) {
  if (tensor.is_dense()) return i;
  return i / tensor.dim(1) * tensor.stride(0) + i % tensor.dim(1);
}
Floats Read(const Tensor& tensor) {
  Floats values(static_cast<size_t>(tensor.elements()));
  for (int64_t i = 0; i < tensor.elements(); ++i)
    values[static_cast<size_t>(i)] = tensor.data()[ElementOffset(tensor, i)];
  return values;
}
void Write(const Tensor& tensor, const Floats& values) {
  for (int64_t i = 0; i < tensor.elements(); ++i)
    tensor.data()[ElementOffset(tensor, i)] = values[static_cast<size_t>(i)];
}

// A tensor of the input's layout; `whole` is the wider tensor behind a strided one, all NaN around it.
struct Layout {
  Tensor whole;
  Tensor tensor;
};
Layout MakeTensor(Allocator& allocator, const OpInput& input) {
  if (!input.strided) {
    Tensor tensor = Tensor::Empty(allocator, input.shape);
    return {tensor, tensor};
  }
  const int64_t columns = input.shape[1];
  Tensor whole = Tensor::Empty(allocator, {input.shape[0], columns + 2 * kPadding});
  std::fill_n(whole.data(), whole.elements(), kNan);
  return {whole, whole.Narrow(1, kPadding, columns)};
}
bool PaddingIsUntouched(const Layout& layout) {
  if (layout.whole.shape() == layout.tensor.shape()) return true;
  for (int64_t row = 0; row < layout.whole.dim(0); ++row) {
    for (int64_t i = 0; i < kPadding; ++i) {
      const float* values = layout.whole.data() + row * layout.whole.dim(1);
      if (!std::isnan(values[i]) || !std::isnan(values[layout.whole.dim(1) - 1 - i])) return false;
    }
  }
  return true;
}

// Hands its gradient on: puts a node between a leaf and the op.
class PassNode : public Node {
 public:
  PassNode() : Node(1) {}
  const char* name() const override { return "pass"; }
  void Backward(RankContext& context) override {
    CHECK(Grad().defined()) << "[pass] no gradient came";
    Deliver(context, 0, Grad());
  }
};

enum class Destinations {
  kFresh,       // undefined: backward allocates
  kOverwrite,   // full of NaN, to be overwritten
  kAccumulate,  // holds Problem::prior, to be added to
};

struct RunOptions {
  int threads = 1;
  Destinations destinations = Destinations::kFresh;
  bool through_nodes = false;
  bool twice = false;  // the op is run twice on the same inputs: gradients double
  bool defer_weights = false;
  bool inference = false;
  int only_input = -1;   // the one input that wants a gradient; -1: all that the case says
  int only_output = -1;  // the one output with a seed; -1: all
};

struct RunResult {
  std::vector<Floats> outputs;
  std::vector<Floats> grads;  // empty where none was wanted
};

// A case with its numbers.
struct Problem {
  const OpCase& op;
  std::vector<Floats> inputs;
  std::vector<Floats> priors;  // earlier gradients
  std::vector<Floats> seeds;   // gradients of the outputs

  bool Wants(size_t input, const RunOptions& options) const {
    return op.inputs[input].wants_grad && (options.only_input < 0 || options.only_input == static_cast<int>(input));
  }
};

Floats Draw(int64_t count, uint64_t stream, double spread) {
  Floats values(static_cast<size_t>(count));
  FillNormal({.seed = 7, .purpose = RngPurpose::kTest, .stream = stream}, 0, count, values.data());
  for (float& value : values) value *= static_cast<float>(spread);
  return values;
}

std::vector<Array> NaiveOutputs(const Problem& problem) {
  std::vector<Array> inputs;
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    inputs.emplace_back(problem.op.inputs[i].shape);
    inputs.back().values.assign(problem.inputs[i].begin(), problem.inputs[i].end());
  }
  return problem.op.naive(inputs);
}

Problem MakeProblem(const OpCase& op) {
  Problem problem{.op = op, .inputs = {}, .priors = {}, .seeds = {}};
  uint64_t stream = 0;
  for (const OpInput& input : op.inputs) {
    problem.inputs.push_back(Draw(input.shape.elements(), ++stream, input.spread));
    problem.priors.push_back(Draw(input.shape.elements(), 100 + stream, 1));
  }
  for (const Array& output : NaiveOutputs(problem))
    problem.seeds.push_back(Draw(output.shape.elements(), 200 + ++stream, 1));
  return problem;
}

// The leaves of one run, with the tensors behind their values and gradients.
struct Leaves {
  Leaves(const Problem& problem, const RunOptions& options, Allocator& allocator) : leaves(problem.inputs.size()) {
    for (size_t i = 0; i < leaves.size(); ++i) {
      values.push_back(MakeTensor(allocator, problem.op.inputs[i]));
      Write(values.back().tensor, problem.inputs[i]);
      grads.push_back(MakeTensor(allocator, problem.op.inputs[i]));
      const bool accumulate = options.destinations == Destinations::kAccumulate;
      Write(grads.back().tensor, accumulate ? problem.priors[i] : Floats(problem.priors[i].size(), kNan));
      leaves[i].name = "input " + std::to_string(i);
      leaves[i].value = values.back().tensor;
      leaves[i].requires_grad = problem.Wants(i, options);
      if (options.destinations != Destinations::kFresh) leaves[i].grad = grads.back().tensor;
      leaves[i].grad_written = accumulate;
    }
  }

  std::vector<Var> Vars(Tape& tape, bool through_nodes) {
    std::vector<Var> vars;
    for (Leaf& leaf : leaves) {
      Var var(leaf);
      if (through_nodes && leaf.requires_grad) {
        var = tape.Record(std::make_unique<PassNode>(), {var}, {leaf.value}, {})[0];
      }
      vars.push_back(var);
    }
    return vars;
  }

  std::vector<Leaf> leaves;
  std::vector<Layout> values;
  std::vector<Layout> grads;
};

RunResult RunCase(const Problem& problem, const RunOptions& options) {
  RankContext context(options.threads);
  Leaves leaves(problem, options, context.allocator());
  Tape tape(context, options.inference ? Tape::Mode::kInference : Tape::Mode::kRecord);
  const std::vector<Var> vars = leaves.Vars(tape, options.through_nodes);
  RunResult result;
  std::vector<Tape::Seed> seeds;
  for (int repeat = 0; repeat < (options.twice ? 2 : 1); ++repeat) {
    const std::vector<Var> outputs = problem.op.run(tape, vars);
    CHECK_EQ(outputs.size(), problem.seeds.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (repeat == 0) result.outputs.push_back(Read(outputs[i].value()));
      if (outputs[i].producer() == nullptr) continue;
      if (options.only_output >= 0 && options.only_output != static_cast<int>(i)) continue;
      Tensor grad = Tensor::Empty(context.allocator(), outputs[i].shape());
      Write(grad, problem.seeds[i]);
      seeds.push_back({outputs[i], std::move(grad)});
    }
  }
  if (seeds.empty()) return result;
  tape.Backward(std::move(seeds), {.defer_weights = options.defer_weights});
  if (options.defer_weights) tape.RunDeferredWeights();
  for (size_t i = 0; i < leaves.leaves.size(); ++i) {
    const Leaf& leaf = leaves.leaves[i];
    result.grads.push_back(leaf.requires_grad && leaf.grad_written ? Read(leaf.grad) : Floats());
    EXPECT_TRUE(PaddingIsUntouched(leaves.grads[i])) << "gradient of input " << i << " written outside its columns";
  }
  return result;
}

double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// Fails when an element is off by more than `tolerance` times the largest value of `want`.
void ExpectClose(const Floats& got, const std::vector<double>& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double allowed = tolerance * LargestMagnitude(want) + 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - want[i]), allowed)
        << what << ", element " << i << ": " << got[i] << ", want " << want[i];
  }
}

void ExpectSameBits(const std::vector<Floats>& got, const std::vector<Floats>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t tensor = 0; tensor < got.size(); ++tensor) {
    ASSERT_EQ(got[tensor].size(), want[tensor].size()) << what << ", tensor " << tensor;
    for (size_t i = 0; i < got[tensor].size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[tensor][i]), std::bit_cast<uint32_t>(want[tensor][i]))
          << what << ", tensor " << tensor << ", element " << i << ": " << got[tensor][i] << " and " << want[tensor][i];
    }
  }
}

// sum over outputs of seed . output, in double: what backward differentiates.
double Objective(const Problem& problem, const std::vector<Array>& inputs, int only_output) {
  const std::vector<Array> outputs = problem.op.naive(inputs);
  double sum = 0;
  for (size_t o = 0; o < outputs.size(); ++o) {
    if (only_output >= 0 && only_output != static_cast<int>(o)) continue;
    for (size_t i = 0; i < outputs[o].values.size(); ++i) sum += outputs[o].values[i] * double{problem.seeds[o][i]};
  }
  return sum;
}

// Derivative of the objective along `direction` of one input, by differences of fourth order.
double Derivative(const Problem& problem, std::vector<Array> inputs, size_t input, const std::vector<double>& direction,
                  int only_output) {
  const std::vector<double> at = inputs[input].values;
  const auto objective = [&](double step) {
    for (size_t i = 0; i < at.size(); ++i) inputs[input].values[i] = at[i] + step * direction[i];
    return Objective(problem, inputs, only_output);
  };
  constexpr double kStep = 2e-3;
  return (8 * (objective(kStep) - objective(-kStep)) - (objective(2 * kStep) - objective(-2 * kStep))) / (12 * kStep);
}

// One derivative of the naive version: along an element, or along a random direction of the whole input.
struct Probe {
  size_t input = 0;
  std::vector<double> direction;
  double derivative = 0;
};

std::vector<Probe> MakeProbes(const Problem& problem, int only_output) {
  std::vector<Array> inputs;
  int64_t outputs = 0;
  for (const Floats& seed : problem.seeds) outputs += static_cast<int64_t>(seed.size());
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    inputs.emplace_back(problem.op.inputs[i].shape);
    inputs.back().values.assign(problem.inputs[i].begin(), problem.inputs[i].end());
  }
  std::vector<Probe> probes;
  for (size_t input = 0; input < inputs.size(); ++input) {
    if (!problem.op.inputs[input].wants_grad) continue;
    const size_t elements = inputs[input].values.size();
    // All elements where that is quick, else a sample.
    const size_t budget = std::max<size_t>(24, static_cast<size_t>(400000 / std::max<int64_t>(1, outputs)));
    const size_t stride = std::max<size_t>(1, elements / std::min(elements, budget));
    for (size_t i = 0; i < elements; i += stride) {
      std::vector<double> direction(elements, 0.0);
      direction[i] = 1;
      probes.push_back({.input = input, .direction = std::move(direction)});
    }
    for (uint64_t stream : {300, 301}) {
      const Floats draw = Draw(static_cast<int64_t>(elements), stream, 1);
      probes.push_back({.input = input, .direction = {draw.begin(), draw.end()}});
    }
  }
  for (Probe& probe : probes) {
    probe.derivative = Derivative(problem, inputs, probe.input, probe.direction, only_output);
  }
  return probes;
}

void ExpectDerivatives(const std::vector<Floats>& grads, const std::vector<Probe>& probes, double tolerance,
                       const std::string& what) {
  for (const Probe& probe : probes) {
    const std::vector<double> grad(grads[probe.input].begin(), grads[probe.input].end());
    ASSERT_EQ(grad.size(), probe.direction.size()) << what << ", input " << probe.input << " got no gradient";
    double along = 0, size = 0;
    for (size_t i = 0; i < grad.size(); ++i) {
      along += grad[i] * probe.direction[i];
      size += std::abs(grad[i] * probe.direction[i]);
    }
    const double allowed = tolerance * std::max(size, LargestMagnitude(grad)) + 1e-9;
    ASSERT_LE(std::abs(along - probe.derivative), allowed)
        << what << ", input " << probe.input << ", element "
        << std::find(probe.direction.begin(), probe.direction.end(), 1.0) - probe.direction.begin() << ": " << along
        << ", want " << probe.derivative;
  }
}

// Values of RunOptions::only_output: all outputs, and each alone where there are several.
std::vector<int> SeedChoices(const Problem& problem) {
  std::vector<int> choices{-1};
  const int outputs = static_cast<int>(problem.seeds.size());
  for (int only = 0; outputs > 1 && only < outputs; ++only) choices.push_back(only);
  return choices;
}

// Calls body(name) with every instruction set in turn forced on the kernels.
template <class Body>
void OnEveryTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    body(std::string(hwy::TargetName(target)));
    hwy::SetSupportedTargetsForTest(0);
  }
}

}  // namespace

std::string CaseName(const char* op, std::initializer_list<int64_t> sizes, const char* variant) {
  return absl::StrCat(op, "_", absl::StrJoin(sizes, "x"), variant[0] == '\0' ? "" : "_", variant);
}

std::ostream& operator<<(std::ostream& out, const OpCase& op_case) { return out << op_case.name; }
std::string OpCaseName(const ::testing::TestParamInfo<OpCase>& info) { return info.param.name; }

std::vector<OpCase> CheckedCases(std::vector<OpCase> cases) {
  std::erase_if(cases, [](const OpCase& op) { return op.timed; });
  return cases;
}

std::vector<OpCase> TimedCases(std::vector<OpCase> cases) {
  std::erase_if(cases, [bench = BenchRequested()](const OpCase& op) { return !op.timed || !bench; });
  return cases;
}

TEST_P(OpCaseTest, ForwardMatchesNaive) {
  const Problem problem = MakeProblem(GetParam());
  const std::vector<Array> want = NaiveOutputs(problem);
  OnEveryTarget([&](const std::string& target) {
    const RunResult got = RunCase(problem, {});
    for (size_t i = 0; i < want.size(); ++i) {
      ExpectClose(got.outputs[i], want[i].values, GetParam().tolerance, target + ", output " + std::to_string(i));
    }
    ExpectSameBits(RunCase(problem, {.inference = true}).outputs, got.outputs, target + ", inference");
  });
}

TEST_P(OpCaseTest, GradientMatchesDifferences) {
  const Problem problem = MakeProblem(GetParam());
  for (const int only : SeedChoices(problem)) {
    const std::vector<Probe> probes = MakeProbes(problem, only);
    OnEveryTarget([&](const std::string& target) {
      const RunResult got = RunCase(problem, {.only_output = only});
      if (probes.empty()) return;
      ASSERT_EQ(got.grads.size(), problem.inputs.size()) << "the op recorded no node";
      ExpectDerivatives(got.grads, probes, GetParam().grad_tolerance, target + ", seed " + std::to_string(only));
    });
  }
}

TEST_P(OpCaseTest, DestinationsAreOverwrittenOrAddedTo) {
  const Problem problem = MakeProblem(GetParam());
  for (const int only : SeedChoices(problem)) {
    const RunResult fresh = RunCase(problem, {.only_output = only});
    const RunResult over = RunCase(problem, {.destinations = Destinations::kOverwrite, .only_output = only});
    ExpectSameBits(over.grads, fresh.grads, "overwritten");
    if (!GetParam().adds_to_gradients) continue;
    const RunResult added = RunCase(problem, {.destinations = Destinations::kAccumulate, .only_output = only});
    for (size_t i = 0; i < fresh.grads.size(); ++i) {
      std::vector<double> want(fresh.grads[i].begin(), fresh.grads[i].end());
      for (size_t k = 0; k < want.size(); ++k) want[k] += double{problem.priors[i][k]};
      ExpectClose(added.grads[i], want, 1e-6, "added to, input " + std::to_string(i));
    }
  }
}

TEST_P(OpCaseTest, GradientsPassThroughNodesAndAddUp) {
  const Problem problem = MakeProblem(GetParam());
  for (const int only : SeedChoices(problem)) {
    const RunResult fresh = RunCase(problem, {.only_output = only});
    const RunResult through = RunCase(problem, {.through_nodes = true, .only_output = only});
    ExpectSameBits(through.grads, fresh.grads, "through nodes");
    if (!GetParam().adds_to_gradients) continue;
    for (const bool through_nodes : {false, true}) {
      const RunResult twice = RunCase(problem, {.through_nodes = through_nodes, .twice = true, .only_output = only});
      for (size_t i = 0; i < fresh.grads.size(); ++i) {
        std::vector<double> want(fresh.grads[i].begin(), fresh.grads[i].end());
        for (double& value : want) value *= 2;
        ExpectClose(twice.grads[i], want, 1e-6, "used twice, input " + std::to_string(i));
      }
    }
  }
}

TEST_P(OpCaseTest, InputsAloneAndDeferredGiveTheSameBits) {
  const Problem problem = MakeProblem(GetParam());
  const RunResult all = RunCase(problem, {});
  ExpectSameBits(RunCase(problem, {.defer_weights = true}).grads, all.grads, "deferred");
  if (!GetParam().inputs_independent) return;
  for (size_t i = 0; i < all.grads.size(); ++i) {
    if (!problem.op.inputs[i].wants_grad) continue;
    const RunResult alone = RunCase(problem, {.only_input = static_cast<int>(i)});
    ExpectSameBits(alone.outputs, all.outputs, "only input " + std::to_string(i));
    ASSERT_EQ(alone.grads.size(), all.grads.size());
    ExpectSameBits({alone.grads[i]}, {all.grads[i]}, "only input " + std::to_string(i));
  }
}

TEST_P(OpCaseTest, ThreadsAgreeBitwise) {
  const Problem problem = MakeProblem(GetParam());
  const RunResult one = RunCase(problem, {});
  for (const int threads : {2, 3}) {
    const RunResult many = RunCase(problem, {.threads = threads});
    ExpectSameBits(many.outputs, one.outputs, std::to_string(threads) + " threads, outputs");
    ExpectSameBits(many.grads, one.grads, std::to_string(threads) + " threads, gradients");
  }
}

namespace {

double MedianMicroseconds(const std::function<void()>& prepare, const std::function<void()>& body) {
  std::vector<double> times;
  for (int i = 0; i < 28; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    if (i >= 7) times.push_back(time.count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Times forward and backward of one case; bytes are those of every tensor that must be read or written once.
void TimeCase(const OpCase& op, int threads) {
  RankContext context(threads);
  Problem problem{.op = op, .inputs = {}, .priors = {}, .seeds = {}};
  int64_t input_bytes = 0, output_bytes = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    problem.inputs.push_back(Draw(op.inputs[i].shape.elements(), i, op.inputs[i].spread));
    problem.priors.emplace_back(problem.inputs.back().size(), 0.0f);
    input_bytes += op.inputs[i].shape.elements() * 4;
  }
  Leaves leaves(problem, {}, context.allocator());
  std::optional<Tape> tape;
  std::vector<Var> outputs;
  std::vector<Tape::Seed> seeds;
  const auto new_tape = [&] {
    outputs.clear();
    tape.emplace(context);
    for (Leaf& leaf : leaves.leaves) {
      leaf.grad = Tensor();
      leaf.grad_written = false;
    }
  };
  const auto forward = [&] { outputs = op.run(*tape, leaves.Vars(*tape, false)); };
  const double forward_us = MedianMicroseconds(new_tape, forward);
  for (const Var& output : outputs) output_bytes += output.value().bytes();
  std::printf("%-32s %d thread%s  forward %9.1f us %7.2f GB/s", op.name.c_str(), threads, threads > 1 ? "s" : " ",
              forward_us, static_cast<double>(input_bytes + output_bytes) / forward_us * 1e-3);
  if (outputs[0].producer() != nullptr) {
    const auto forward_and_seed = [&] {
      new_tape();
      forward();
      seeds.clear();
      for (const Var& output : outputs) seeds.push_back({output, Tensor::Zeros(context.allocator(), output.shape())});
    };
    const double backward_us = MedianMicroseconds(forward_and_seed, [&] { tape->Backward(std::move(seeds)); });
    std::printf("   backward %9.1f us %7.2f GB/s", backward_us,
                static_cast<double>(2 * input_bytes + output_bytes) / backward_us * 1e-3);
  }
  std::printf("\n");
}

}  // namespace

TEST_P(OpTimingTest, Time) {
  for (const int threads : {1, 2}) TimeCase(GetParam(), threads);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OpTimingTest);

}  // namespace shardit
