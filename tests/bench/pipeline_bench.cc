// The bubble of every pipeline schedule on thread-ranks. Stages sleep a set time for each pass and wait for nothing
// else, so that the cores of the machine do not matter. Prints a table to standard error and a JSON document to
// standard output; --trace PREFIX also writes PREFIX<schedule>.json, the merged trace of its last steps.
//
//   pipeline_bench [--ranks 4] [--micro-batches 8] [--parts 2] [--pass-ms 10] [--steps 20] [--trace PREFIX]
//
// A rank's forward, input gradients and weight gradients of a micro-batch take --pass-ms each, whatever the number of
// parts. Busy time is what the passes took, late wake-ups included; on a machine that does other work, longer passes
// and a real-time priority (chrt -f 10) keep these small. "peak" is the most activations that a rank holds, in
// micro-batches.
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/base/check.h"
#include "parallel/comm/world.h"
#include "parallel/pipeline/executor.h"
#include "parallel/pipeline/simulate.h"
#include "trainer/trace/merged_trace.h"

namespace shardit {
namespace {

struct Options {
  int ranks = 4, micro_batches = 8, parts = 2, steps = 20;
  double pass_ms = 10;
  std::string trace;
};

void Sleep(double ms) {
  const int64_t ns = static_cast<int64_t>(1e6 * ms);
  timespec time{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &time) != 0) {
  }
}

class SleepingStage final : public PipelineStage {
 public:
  SleepingStage(const PipelineSpec& spec, int rank, double pass_ms, RankContext& context)
      : spec_(spec), rank_(rank), ms_(pass_ms / spec.parts), context_(context) {}

  int parts() const override { return spec_.parts; }
  std::vector<BoundaryTensor> Inputs(int part) const override {
    if (part == 0 && rank_ == 0) return {};
    return {{kShape}};
  }
  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override {
    Sleep(ms_);
    if (part == spec_.parts - 1 && rank_ == spec_.ranks - 1) return {};
    return {Tensor::Empty(context_.allocator(), kShape)};
  }
  std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> grads, bool defer_weights) override {
    Sleep(defer_weights ? ms_ : 2 * ms_);
    if (part == 0 && rank_ == 0) return {};
    return {Tensor::Empty(context_.allocator(), kShape)};
  }
  void BackwardWeights(int part, int micro_batch) override { Sleep(ms_); }

 private:
  inline static const Shape kShape{4, 16, 64};  // 16 KiB

  const PipelineSpec spec_;
  const int rank_;
  const double ms_;
  RankContext& context_;
};

// Figures of every step but the first, which warms up; on rank 0.
std::vector<StepFigures> RunSteps(World& world, const PipelineSpec& spec, const Options& options) {
  prctl(PR_SET_TIMERSLACK, 1000);  // ns: sleep no longer than told
  SetThreadIdentity("rank " + std::to_string(world.rank()));
  RankContext context(1);
  PipelineExecutor executor(spec, world.comm(), context);
  Timeline& timeline = context.timeline();
  timeline.Enable();
  std::vector<StepFigures> figures;
  for (int step = 0; step <= options.steps; ++step) {
    timeline.BeginStep(step);
    world.comm().Barrier().Wait();
    SleepingStage stage(spec, world.rank(), options.pass_ms, context);
    executor.Run(stage);
    for (const StepFigures& figure : FiguresOf(GatherTraces(world.comm(), timeline, ""))) {
      if (step > 0 && figure.step == step) figures.push_back(figure);
    }
  }
  if (options.trace.empty()) return figures;
  const std::string path = options.trace + std::string(Name(spec.kind)) + ".json";
  const auto written = WriteMergedTrace(world.comm(), timeline, PosixFileSystem(), path);
  CHECK(written.ok()) << written.status().message();
  return figures;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double SimulatedBubble(const PipelineSpec& spec) {
  const double idle = SimulateSchedule(spec, std::vector<StageCost>(spec.stages(), {1, 1, 1})).idle_fraction;
  return idle / (1 - idle);
}

nlohmann::json Measure(ScheduleKind kind, const Options& options) {
  const PipelineSpec spec{.kind = kind,
                          .ranks = options.ranks,
                          .micro_batches = options.micro_batches,
                          .parts = kind == ScheduleKind::kInterleaved ? options.parts : 1};
  std::vector<double> bubbles, ms;
  RunThreadWorld(options.ranks, [&](World& world) {
    const std::vector<StepFigures> figures = RunSteps(world, spec, options);
    for (const StepFigures& figure : figures) {
      bubbles.push_back(figure.bubble);
      ms.push_back(figure.ms);
    }
  });
  const double planned = SimulatedBubble(spec), bubble = Median(bubbles);
  int peak = 0;  // over ranks, in parts
  for (int rank = 0; rank < spec.ranks; ++rank) peak = std::max(peak, PeakInFlight(Schedule(spec, rank)).until_weights);
  const std::string name(Name(kind));
  std::fprintf(stderr, "%-15s %5d %10.1f %10.4f %10.4f %+8.1f%% %10.2f\n", name.c_str(), spec.parts, Median(ms), bubble,
               planned, 100 * (bubble / planned - 1), static_cast<double>(peak) / spec.parts);
  return {{"schedule", name}, {"parts", spec.parts}, {"step_ms", Median(ms)},
          {"bubble", bubble}, {"formula", planned},  {"peak_micro_batches", static_cast<double>(peak) / spec.parts}};
}

void Run(const Options& options) {
  std::fprintf(stderr, "%d ranks, %d micro-batches, %.1f ms a pass, median of %d steps\n", options.ranks,
               options.micro_batches, options.pass_ms, options.steps);
  std::fprintf(stderr, "%-15s %5s %10s %10s %10s %9s %10s\n", "schedule", "parts", "step ms", "idle/busy", "formula",
               "error", "peak");
  nlohmann::json rows = nlohmann::json::array();
  for (const ScheduleKind kind : kScheduleKinds) rows.push_back(Measure(kind, options));
  const double ratio = rows[3]["bubble"].get<double>() / rows[1]["bubble"].get<double>();
  std::fprintf(stderr, "idle time of %s over %s: %.3f\n", "ZERO_BUBBLE_H1", "ONE_F_ONE_B", ratio);
  std::printf("%s\n", nlohmann::json{{"ranks", options.ranks},
                                     {"micro_batches", options.micro_batches},
                                     {"pass_ms", options.pass_ms},
                                     {"steps", options.steps},
                                     {"schedules", rows},
                                     {"zero_bubble_over_1f1b", ratio}}
                          .dump(2)
                          .c_str());
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Options options;
  CLI::App app("bubble of pipeline schedules");
  app.add_option("--ranks", options.ranks)->check(CLI::Range(2, 64));
  app.add_option("--micro-batches", options.micro_batches)->check(CLI::PositiveNumber);
  app.add_option("--parts", options.parts, "of the interleaved schedule")->check(CLI::PositiveNumber);
  app.add_option("--pass-ms", options.pass_ms)->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps)->check(CLI::PositiveNumber);
  app.add_option("--trace", options.trace, "write merged traces to files that begin so");
  CLI11_PARSE(app, argc, argv);
  shardit::Run(options);
}
