// Running an OpCase with numbers, on any device, and judging what came out: what the CPU's and CUDA's tests of op cases
// share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/core/host_copy.h"
#include "tests/core/op_case.h"

namespace shardit {

// A case with its numbers. In bf16 all of them are representable there.
struct OpProblem {
  const OpCase& op;
  DType dtype = DType::kF32;  // of activations and parameters
  std::vector<Floats> inputs;
  std::vector<Floats> priors;  // earlier gradients
  std::vector<Floats> seeds;   // gradients of the outputs

  DType ValueType(size_t input) const { return op.inputs[input].role == OpRole::kData ? DType::kF32 : dtype; }
  DType GradType(size_t input) const { return op.inputs[input].role == OpRole::kActivation ? dtype : DType::kF32; }
};

OpProblem MakeProblem(const OpCase& op, DType dtype = DType::kF32);

// What the naive version makes of the problem's inputs.
Arrays InputArrays(const OpProblem& problem);
Arrays NaiveOutputs(const OpProblem& problem);

enum class Destinations {
  kFresh,       // undefined: backward allocates
  kOverwrite,   // full of NaN, to be overwritten
  kAccumulate,  // holds OpProblem::priors, to be added to
};

struct OpRunOptions {
  Destinations destinations = Destinations::kFresh;
  bool through_nodes = false;  // activations reach the op through a node
  bool twice = false;          // the op is run twice on the same inputs: gradients double
  bool defer_weights = false;
  bool inference = false;
  int only_input = -1;   // the one input that wants a gradient; -1: all that the case says
  int only_output = -1;  // the one output with a seed; -1: all
};

struct OpRunResult {
  std::vector<Floats> outputs;
  std::vector<Floats> grads;  // empty where none was wanted
};

// Fails the test where a gradient is written outside its columns, or is of another type than its role says.
OpRunResult RunOp(RankContext& context, const OpProblem& problem, const OpRunOptions& options = {});

// Values of OpRunOptions::only_output: all outputs, and each alone where there are several.
std::vector<int> SeedChoices(const OpProblem& problem);

// One derivative of the naive version: along an element, or along a random direction of the whole input.
struct Probe {
  size_t input = 0;
  std::vector<double> direction;
  double derivative = 0;
};

// Elements of every input that wants a gradient, at most `budget` of each (more where the naive version is quick, with
// the default budget of 0), and two directions. By differences of fourth order.
std::vector<Probe> MakeProbes(const OpProblem& problem, int only_output, size_t budget = 0);

// Each fails the test where something is off; `what` names it.
// An element by more than `tolerance` times the largest value of `want`.
void ExpectClose(const Floats& got, const std::vector<double>& want, double tolerance, const std::string& what);
void ExpectSameBits(const std::vector<Floats>& got, const std::vector<Floats>& want, const std::string& what);
void ExpectDerivatives(const std::vector<Floats>& grads, const std::vector<Probe>& probes, double tolerance,
                       const std::string& what);
// The largest error by more than `factor` times that of `twin`, which counts as at least half a unit in the last place
// of the largest value of `want` in bf16.
void ExpectWithinTwin(const Floats& got, const std::vector<double>& want, const std::vector<double>& twin,
                      double factor, const std::string& what);

// The tensors behind the inputs of one run. The pieces of RunOp, for timing.
class OpInputs {
 public:
  OpInputs(RankContext& context, const OpProblem& problem, const OpRunOptions& options);
  std::vector<Var> Vars(Tape& tape, bool through_nodes);
  // Of input `index`; empty where it has none.
  Floats Grad(size_t index) const;
  // As before a backward.
  void ForgetGrads();

 private:
  // A tensor of the input's layout; `whole` is the wider tensor behind a strided one, NaN around it.
  struct Place {
    Tensor whole;
    Tensor tensor;
  };
  Place Put(RankContext& context, size_t index, DType dtype, const Floats& values) const;
  Floats Read(const Place& place) const;

  const OpProblem& problem_;
  std::vector<Leaf> leaves_;
  std::vector<Place> grads_;  // undefined where backward allocates
};

}  // namespace shardit
