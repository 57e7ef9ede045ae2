#include "tests/core/op_timing.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace shardit {
namespace {

constexpr int kWarmUps = 7, kRuns = 21;
constexpr int64_t kMoreThanCache = int64_t{256} << 20;  // bytes

class Stopwatch {
 public:
  explicit Stopwatch(RankContext& context) : context_(context) {
    if (!context.on_cuda()) return;
    start_ = cuda::Event::Make(context.device(), true);
    end_ = cuda::Event::Make(context.device(), true);
    flushed_ = Tensor::Empty(context.allocator(), {kMoreThanCache}, DType::kU8);
  }

  double Microseconds(const std::function<void()>& body) {
    if (!context_.on_cuda()) {
      const auto start = std::chrono::steady_clock::now();
      body();
      return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    }
    const Stream stream = context_.cuda().stream;
    flushed_.Zero();
    start_.Record(stream);
    body();
    end_.Record(stream);
    end_.Synchronize();
    return 1e3 * double{start_.MillisecondsTo(end_)};
  }

 private:
  RankContext& context_;
  cuda::Event start_, end_;
  Tensor flushed_;
};

double Median(Stopwatch& watch, const std::function<void()>& prepare, const std::function<void()>& body) {
  std::vector<double> times;
  for (int i = 0; i < kWarmUps + kRuns; ++i) {
    prepare();
    const double time = watch.Microseconds(body);
    if (i >= kWarmUps) times.push_back(time);
  }
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

}  // namespace

void TimeOp(RankContext& context, const OpProblem& problem, const std::string& label) {
  Stopwatch watch(context);
  OpInputs inputs(context, problem, {});
  std::optional<Tape> tape;
  std::vector<Var> outputs;
  std::vector<Tape::Seed> seeds;
  const auto new_tape = [&] {
    outputs.clear();
    tape.emplace(context);
    inputs.ForgetGrads();
  };
  const auto forward = [&] { outputs = problem.op.run(*tape, inputs.Vars(*tape, false)); };
  const double forward_us = Median(watch, new_tape, forward);
  int64_t values = 0, grads = 0, output_bytes = 0;
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    const OpInput& input = problem.op.inputs[i];
    values += input.shape.elements() * SizeOf(problem.ValueType(i));
    if (input.wants_grad) grads += input.shape.elements() * SizeOf(problem.GradType(i));
  }
  for (const Var& output : outputs) output_bytes += output.value().bytes();
  std::printf("%-32s %-9s  forward %9.1f us %7.2f GB/s", problem.op.name.c_str(), label.c_str(), forward_us,
              static_cast<double>(values + output_bytes) / forward_us * 1e-3);
  if (outputs[0].producer() != nullptr) {
    const auto forward_and_seed = [&] {
      new_tape();
      forward();
      seeds.clear();
      for (const Var& output : outputs) {
        seeds.push_back({output, Tensor::Zeros(context.allocator(), output.shape(), output.value().dtype())});
      }
    };
    const double backward_us = Median(watch, forward_and_seed, [&] { tape->Backward(std::move(seeds)); });
    std::printf("   backward %9.1f us %7.2f GB/s", backward_us,
                static_cast<double>(values + grads + output_bytes) / backward_us * 1e-3);
  }
  std::printf("\n");
}

}  // namespace shardit
