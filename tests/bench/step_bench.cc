// One whole training step (forward, loss, backward, AdamW and EMA) on data that is already in memory, one rank. Prints
// a line to standard error and one JSON document to standard output.
//
//   step_bench --size S/2|S/8|w192|... --batch N --threads N [--steps 20] [--warmup 3]
//
// w192 is width 192, 6 layers, 3 heads, patch 2; any size of `shardit models` works too.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/base/check.h"
#include "core/tensor/rng.h"
#include "model/dit_variants.h"
#include "parallel/comm/world.h"
#include "tests/bench/timing.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

DitConfig ConfigOf(const std::string& size) {
  if (size == "w192") {
    DitConfig config;
    config.depth = 6;
    config.width = 192;
    config.heads = 3;
    config.patch = 2;
    return config;
  }
  const auto variant = FindVariant("DiT-" + size);
  CHECK(variant.ok()) << variant.status().message();
  return *variant;
}

int Run(const std::string& size, int64_t batch, int threads, int steps, int warmup) {
  const DitConfig config = ConfigOf(size);
  World world = SelfWorld();
  RankContext context(threads);
  TrainState state(config, context.allocator());
  state.Initialize(0);
  // Past the initial state, where half of the gradients are zero.
  for (const auto& parameter : state.model().parameters().all()) {
    FillInitial(Init::Normal(0.02), 1, parameter->name, 0, parameter->shape.elements(), parameter->value.data());
  }
  const Diffusion diffusion({});
  const Optimizer optimizer({}, {}, 1000);
  Mesh mesh = *Mesh::Create({1, 1, 1}, world.comm());
  const StepComms comms(mesh);
  TrainStep step(context, state, diffusion, optimizer, comms, {.global_batch = batch, .micro_batch = batch});

  std::vector<float> x(static_cast<size_t>(batch * config.latent_elements()));
  FillNormal({.seed = 1}, 0, static_cast<int64_t>(x.size()), x.data());
  std::vector<int32_t> y(static_cast<size_t>(batch));
  std::vector<int64_t> positions(static_cast<size_t>(batch));
  const Batch data{.x = x, .y = y, .positions = positions};
  std::vector<double> times;
  double loss = 0.0;
  for (int i = 0; i < warmup + steps; ++i) {
    for (size_t n = 0; n < positions.size(); ++n) {
      positions[n] = i * batch + static_cast<int64_t>(n);
      y[n] = static_cast<int32_t>(positions[n] % config.classes);
    }
    const double begin = bench::Now(CLOCK_MONOTONIC);
    loss = step.Run(data).loss;
    if (i >= warmup) times.push_back(1e3 * (bench::Now(CLOCK_MONOTONIC) - begin));
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  const double gflops = TrainFlops(config) * static_cast<double>(batch) / median * 1e-6;
  std::fprintf(stderr, "%s batch %ld, %d thread(s): median %.1f ms, least %.1f ms, %.1f images/s, %.1f GFLOP/s\n",
               size.c_str(), static_cast<long>(batch), threads, median, times.front(),
               1e3 * static_cast<double>(batch) / median, gflops);
  const nlohmann::ordered_json json = {{"program", "shardit"},
                                       {"size", size},
                                       {"batch", batch},
                                       {"threads", threads},
                                       {"steps", steps},
                                       {"median_ms", median},
                                       {"min_ms", times.front()},
                                       {"gflops", gflops},
                                       {"loss", loss},
                                       {"peak_bytes", context.allocator().stats().peak_bytes_in_use}};
  std::printf("%s\n", json.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  CLI::App app("One training step, timed");
  std::string size = "S/2";
  int64_t batch = 4;
  int threads = 2, steps = 20, warmup = 3;
  app.add_option("--size", size);
  app.add_option("--batch", batch);
  app.add_option("--threads", threads);
  app.add_option("--steps", steps);
  app.add_option("--warmup", warmup);
  CLI11_PARSE(app, argc, argv);
  return shardit::Run(size, batch, threads, steps, warmup);
}
