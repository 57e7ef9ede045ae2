#include "tests/core/op_run.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "core/tensor/rng.h"

namespace shardit {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Columns on either side of a strided tensor: where the width allows it, so many that rows stay aligned.
int64_t Padding(const OpInput& input) { return input.shape[1] % 8 == 0 ? 8 : 3; }

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

Floats Draw(int64_t count, uint64_t stream, double spread, DType dtype) {
  Floats values(static_cast<size_t>(count));
  FillNormal({.seed = 7, .purpose = RngPurpose::kTest, .stream = stream}, 0, count, values.data());
  for (float& value : values) {
    value *= static_cast<float>(spread);
    if (dtype == DType::kBF16) value = BFloat16::FromFloat(value).ToFloat();
  }
  return values;
}

double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// Shapes of the outputs: from the naive version, or, where that would take too long, from the CPU's op.
std::vector<Shape> OutputShapes(const OpProblem& problem) {
  std::vector<Shape> shapes;
  if (!problem.op.large && !problem.op.timed) {
    for (const Array& output : NaiveOutputs(problem)) shapes.push_back(output.shape);
    return shapes;
  }
  RankContext context(2);
  const OpProblem fp32{.op = problem.op, .inputs = problem.inputs, .priors = problem.priors, .seeds = {}};
  OpInputs inputs(context, fp32, {});
  Tape tape(context, Tape::Mode::kInference);
  for (const Var& output : problem.op.run(tape, inputs.Vars(tape, false))) shapes.push_back(output.shape());
  return shapes;
}

// sum over outputs of seed . output, in double: what backward differentiates.
double Objective(const OpProblem& problem, const Arrays& inputs, int only_output) {
  const Arrays outputs = problem.op.naive(inputs);
  double sum = 0;
  for (size_t o = 0; o < outputs.size(); ++o) {
    if (only_output >= 0 && only_output != static_cast<int>(o)) continue;
    for (size_t i = 0; i < outputs[o].values.size(); ++i) sum += outputs[o].values[i] * double{problem.seeds[o][i]};
  }
  return sum;
}

// Derivative of the objective along `direction` of one input, by differences of fourth order.
double Derivative(const OpProblem& problem, Arrays inputs, size_t input, const std::vector<double>& direction,
                  int only_output) {
  const std::vector<double> at = inputs[input].values;
  const auto objective = [&](double step) {
    for (size_t i = 0; i < at.size(); ++i) inputs[input].values[i] = at[i] + step * direction[i];
    return Objective(problem, inputs, only_output);
  };
  constexpr double kStep = 2e-3;
  return (8 * (objective(kStep) - objective(-kStep)) - (objective(2 * kStep) - objective(-2 * kStep))) / (12 * kStep);
}

double LargestError(const std::vector<double>& got, const std::vector<double>& want) {
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::abs(got[i] - want[i]));
  return largest;
}

}  // namespace

OpProblem MakeProblem(const OpCase& op, DType dtype) {
  OpProblem problem{.op = op, .dtype = dtype, .inputs = {}, .priors = {}, .seeds = {}};
  uint64_t stream = 0;
  for (const OpInput& input : op.inputs) {
    problem.inputs.push_back(Draw(input.shape.elements(), ++stream, input.spread, dtype));
    problem.priors.push_back(Draw(input.shape.elements(), 100 + stream, 1, dtype));
  }
  for (const Shape& shape : OutputShapes(problem)) {
    problem.seeds.push_back(Draw(shape.elements(), 200 + ++stream, 1, dtype));
  }
  return problem;
}

Arrays InputArrays(const OpProblem& problem) {
  Arrays inputs;
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    inputs.emplace_back(problem.op.inputs[i].shape);
    inputs.back().values.assign(problem.inputs[i].begin(), problem.inputs[i].end());
  }
  return inputs;
}

Arrays NaiveOutputs(const OpProblem& problem) { return problem.op.naive(InputArrays(problem)); }

OpInputs::OpInputs(RankContext& context, const OpProblem& problem, const OpRunOptions& options)
    : problem_(problem), leaves_(problem.inputs.size()), grads_(problem.inputs.size()) {
  const bool accumulate = options.destinations == Destinations::kAccumulate;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    Leaf& leaf = leaves_[i];
    leaf.name = "input " + std::to_string(i);
    leaf.value = Put(context, i, problem.ValueType(i), problem.inputs[i]).tensor;
    leaf.grad_dtype = problem.GradType(i);
    leaf.requires_grad =
        problem.op.inputs[i].wants_grad && (options.only_input < 0 || options.only_input == static_cast<int>(i));
    if (options.destinations == Destinations::kFresh) continue;
    const Floats unwritten(problem.inputs[i].size(), kNan);
    grads_[i] = Put(context, i, leaf.grad_dtype, accumulate ? problem.priors[i] : unwritten);
    leaf.grad = grads_[i].tensor;
    leaf.grad_written = accumulate;
  }
}

OpInputs::Place OpInputs::Put(RankContext& context, size_t index, DType dtype, const Floats& values) const {
  const OpInput& input = problem_.op.inputs[index];
  if (!input.strided) {
    Tensor tensor = Tensor::Empty(context.allocator(), input.shape, dtype);
    WriteFloats(tensor, values);
    return {tensor, tensor};
  }
  const int64_t rows = input.shape[0], columns = input.shape[1], padding = Padding(input);
  const int64_t pitch = columns + 2 * padding;
  Floats wide(static_cast<size_t>(rows * pitch), kNan);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(values.data() + row * columns, columns, wide.data() + row * pitch + padding);
  }
  Tensor whole = Tensor::Empty(context.allocator(), {rows, pitch}, dtype);
  WriteFloats(whole, wide);
  return {whole, whole.Narrow(1, padding, columns)};
}

Floats OpInputs::Read(const Place& place) const {
  const Floats wide = ReadFloats(place.whole);
  if (place.whole.shape() == place.tensor.shape()) return wide;
  const int64_t rows = place.tensor.dim(0), columns = place.tensor.dim(1), pitch = place.whole.dim(1);
  const int64_t padding = (pitch - columns) / 2;
  Floats values;
  for (int64_t i = 0; i < rows * pitch; ++i) {
    const int64_t column = i % pitch - padding;
    if (column >= 0 && column < columns) {
      values.push_back(wide[static_cast<size_t>(i)]);
    } else {
      EXPECT_TRUE(std::isnan(wide[static_cast<size_t>(i)])) << "a gradient was written outside its columns";
    }
  }
  return values;
}

std::vector<Var> OpInputs::Vars(Tape& tape, bool through_nodes) {
  std::vector<Var> vars;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    Leaf& leaf = leaves_[i];
    Var var(leaf);
    // A node's gradient has the type of its output, which is not that of a parameter's in bf16.
    if (through_nodes && leaf.requires_grad && leaf.grad_dtype == leaf.value.dtype()) {
      var = tape.Record(std::make_unique<PassNode>(), {var}, {leaf.value}, {})[0];
    }
    vars.push_back(var);
  }
  return vars;
}

Floats OpInputs::Grad(size_t index) const {
  const Leaf& leaf = leaves_[index];
  if (!leaf.requires_grad || !leaf.grad_written) return {};
  EXPECT_EQ(Name(leaf.grad.dtype()), Name(leaf.grad_dtype)) << leaf.name;
  return Read(grads_[index].whole.defined() ? grads_[index] : Place{leaf.grad, leaf.grad});
}

void OpInputs::ForgetGrads() {
  for (Leaf& leaf : leaves_) {
    leaf.grad = Tensor();
    leaf.grad_written = false;
  }
}

OpRunResult RunOp(RankContext& context, const OpProblem& problem, const OpRunOptions& options) {
  OpInputs inputs(context, problem, options);
  Tape tape(context, options.inference ? Tape::Mode::kInference : Tape::Mode::kRecord);
  const std::vector<Var> vars = inputs.Vars(tape, options.through_nodes);
  OpRunResult result;
  std::vector<Tape::Seed> seeds;
  for (int repeat = 0; repeat < (options.twice ? 2 : 1); ++repeat) {
    const std::vector<Var> outputs = problem.op.run(tape, vars);
    CHECK_EQ(outputs.size(), problem.seeds.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (repeat == 0) result.outputs.push_back(ReadFloats(outputs[i].value()));
      if (outputs[i].producer() == nullptr) continue;
      if (options.only_output >= 0 && options.only_output != static_cast<int>(i)) continue;
      Tensor grad = Tensor::Empty(context.allocator(), outputs[i].shape(), outputs[i].value().dtype());
      WriteFloats(grad, problem.seeds[i]);
      seeds.push_back({outputs[i], std::move(grad)});
    }
  }
  if (seeds.empty()) return result;
  tape.Backward(std::move(seeds), {.defer_weights = options.defer_weights});
  if (options.defer_weights) tape.RunDeferredWeights();
  for (size_t i = 0; i < problem.inputs.size(); ++i) result.grads.push_back(inputs.Grad(i));
  return result;
}

std::vector<int> SeedChoices(const OpProblem& problem) {
  std::vector<int> choices{-1};
  const int outputs = static_cast<int>(problem.seeds.size());
  for (int only = 0; outputs > 1 && only < outputs; ++only) choices.push_back(only);
  return choices;
}

std::vector<Probe> MakeProbes(const OpProblem& problem, int only_output, size_t budget) {
  const Arrays inputs = InputArrays(problem);
  int64_t outputs = 0;
  for (const Floats& seed : problem.seeds) outputs += static_cast<int64_t>(seed.size());
  // All elements where that is quick, else a sample.
  if (budget == 0) budget = std::max<size_t>(24, static_cast<size_t>(400000 / std::max<int64_t>(1, outputs)));
  std::vector<Probe> probes;
  for (size_t input = 0; input < inputs.size(); ++input) {
    if (!problem.op.inputs[input].wants_grad) continue;
    const size_t elements = inputs[input].values.size();
    const size_t stride = std::max<size_t>(1, elements / std::min(elements, budget));
    for (size_t i = 0; i < elements; i += stride) {
      std::vector<double> direction(elements, 0.0);
      direction[i] = 1;
      probes.push_back({.input = input, .direction = std::move(direction)});
    }
    for (uint64_t stream : {300, 301}) {
      const Floats draw = Draw(static_cast<int64_t>(elements), stream, 1, DType::kF32);
      probes.push_back({.input = input, .direction = {draw.begin(), draw.end()}});
    }
  }
  for (Probe& probe : probes) {
    probe.derivative = Derivative(problem, inputs, probe.input, probe.direction, only_output);
  }
  return probes;
}

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

void ExpectWithinTwin(const Floats& got, const std::vector<double>& want, const std::vector<double>& twin,
                      double factor, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  ASSERT_EQ(twin.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(std::isfinite(got[i])) << what << ", element " << i;
  // Half a unit in the last place is at most 2^-9 of a value, and at least 2^-10 of it.
  const double floor = std::ldexp(LargestMagnitude(want), -10);
  const double allowed = factor * std::max(LargestError(twin, want), floor) + 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - want[i]), allowed)
        << what << ", element " << i << ": " << got[i] << ", want " << want[i] << ", twin " << twin[i];
  }
}

}  // namespace shardit
