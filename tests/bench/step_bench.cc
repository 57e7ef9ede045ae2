// One whole training step (forward, loss, backward, AdamW and EMA) on data that is already in memory, on one rank or,
// under mpirun, on data-parallel ranks. Prints a line to standard error and one JSON document to standard output.
//
//   step_bench --size S/2|S/8|w192|... --batch N [--device cpu|cuda] [--precision fp32|tf32|bf16] [--graph on|off]
//              [--threads N] [--steps 20] [--warmup N] [--window N] [--recompute none|selective|full] [--zero 0..3]
//              [--micro-batch N] [--json FILE]
//
// w192 is width 192, 6 layers, 3 heads, patch 2; any size of `shardit models` works too, and --depth, --width, --heads,
// --patch and --side change it. --batch counts the images of all ranks.
//
// A time is that of --window steps over their number: 1 on a CPU, 5 on a GPU. As in training, the host waits for every
// step's losses. Before the first time come --warmup steps: 3, or 5 on a GPU, where the third is recorded as a graph.
// MFU is over the device's dense bf16 peak (core/cuda/peak_flops.h) whatever the precision, and null where that is not
// known.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/base/check.h"
#include "core/cuda/device_query.h"
#include "core/cuda/peak_flops.h"
#include "core/tensor/rng.h"
#include "model/dit_variants.h"
#include "parallel/comm/world.h"
#include "tests/bench/timing.h"
#include "trainer/train/compute_device.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

struct Flags {
  std::string size = "S/2", json;
  int64_t depth = 0, width = 0, heads = 0, patch = 0, side = 0;  // 0: as `size` says
  int64_t batch = 4, micro_batch = 0;                            // 0: all of a rank's images at once
  int threads = 2, steps = 20, warmup = -1, window = 0;          // -1, 0: by device
  DeviceChoice device = DeviceChoice::kCpu;
  Precision precision = Precision::kFp32;
  RecomputeMode recompute = RecomputeMode::kNone;
  bool graph = true;
  int zero = 0;
};

const std::vector<std::pair<std::string, DeviceChoice>> kDevices = {{"cpu", DeviceChoice::kCpu},
                                                                    {"cuda", DeviceChoice::kCuda}};
const std::vector<std::pair<std::string, Precision>> kPrecisions = {
    {"fp32", Precision::kFp32}, {"tf32", Precision::kTf32}, {"bf16", Precision::kBf16}};
const std::vector<std::pair<std::string, RecomputeMode>> kRecomputes = {
    {"none", RecomputeMode::kNone}, {"selective", RecomputeMode::kSelective}, {"full", RecomputeMode::kFull}};
const std::vector<std::pair<std::string, bool>> kSwitch = {{"on", true}, {"off", false}};

template <class T>
std::string NameOf(const std::vector<std::pair<std::string, T>>& names, T value) {
  for (const auto& [name, of] : names) {
    if (of == value) return name;
  }
  return "";
}

DitConfig ConfigOf(const Flags& flags) {
  DitConfig config;
  if (flags.size == "w192") {
    config.depth = 6;
    config.width = 192;
    config.heads = 3;
    config.patch = 2;
  } else {
    const auto variant = FindVariant("DiT-" + flags.size);
    CHECK(variant.ok()) << variant.status().message();
    config = *variant;
  }
  for (const auto& [flag, field] : {std::pair{flags.depth, &config.depth}, std::pair{flags.width, &config.width},
                                    std::pair{flags.heads, &config.heads}, std::pair{flags.patch, &config.patch},
                                    std::pair{flags.side, &config.side}}) {
    if (flag > 0) *field = flag;
  }
  const absl::Status valid = config.Validate();
  CHECK(valid.ok()) << valid.message();
  return config;
}

// Past the initial state, where half of the gradients are zero.
void FillWeights(TrainState& state, RankContext& context) {
  const Placement placement = state.weights_placement();
  const ShardMap all(state.layout(), 1, 0);
  for (const StateRun& run :
       StateRuns(placement == Placement::kFlat ? all : state.kept(), placement, state.sharding().tensor())) {
    const absl::Status filled = FillRange(state.weights(), run.begin, Volume(run.box), [&](float* out) {
      FillInitial(Init::Normal(0.02), 1, run.parameter->name, run.begin, Volume(run.box), out);
      return absl::OkStatus();
    });
    CHECK(filled.ok());
  }
  state.StartFromWeights();
  state.RefreshComputeWeights(context);
}

// The samples of one rank. Every step has its own positions, and so its own noise.
class Samples {
 public:
  Samples(const DitConfig& config, int64_t global_batch, const World& world)
      : classes_(config.classes),
        global_batch_(global_batch),
        count_(global_batch / world.size()),
        first_(world.rank() * count_),
        x_(static_cast<size_t>(count_ * config.latent_elements())),
        y_(static_cast<size_t>(count_)),
        positions_(static_cast<size_t>(count_)) {
    FillNormal({.seed = 1}, static_cast<uint64_t>(world.rank()) * x_.size(), static_cast<int64_t>(x_.size()),
               x_.data());
  }

  Batch OfStep(int64_t step) {
    for (int64_t n = 0; n < count_; ++n) {
      positions_[static_cast<size_t>(n)] = step * global_batch_ + first_ + n;
      y_[static_cast<size_t>(n)] = static_cast<int32_t>(positions_[static_cast<size_t>(n)] % classes_);
    }
    return {.step = step, .x = x_, .y = y_, .positions = positions_};
  }

 private:
  const int64_t classes_, global_batch_, count_, first_;
  std::vector<float> x_;
  std::vector<int32_t> y_;
  std::vector<int64_t> positions_;
};

struct Measured {
  std::vector<double> ms;          // a step, ascending
  std::vector<double> exposed_ms;  // a step, ascending
  double loss = 0.0;
  int64_t graph_nodes = 0;
};

Measured Measure(const Flags& flags, int window, RankContext& context, TrainStep& step, Samples& samples) {
  Measured measured;
  int64_t done = 0;
  const auto run = [&](int steps) {
    double exposed = 0.0;
    for (int i = 0; i < steps; ++i, ++done) {
      measured.loss = step.Run(samples.OfStep(done)).loss;
      exposed += context.timeline().waited_ms();
    }
    context.Synchronize();  // the window's end
    return exposed / std::max(steps, 1);
  };
  run(flags.warmup);
  for (int i = 0; i < flags.steps; ++i) {
    const double begin = bench::Now(CLOCK_MONOTONIC);
    measured.exposed_ms.push_back(run(window));
    measured.ms.push_back(1e3 * (bench::Now(CLOCK_MONOTONIC) - begin) / window);
  }
  measured.graph_nodes = step.graph_nodes();
  std::sort(measured.ms.begin(), measured.ms.end());
  std::sort(measured.exposed_ms.begin(), measured.exposed_ms.end());
  return measured;
}

nlohmann::ordered_json JsonOf(const Flags& flags, const DitConfig& config, const World& world, RankContext& context,
                              int window, const Measured& measured) {
  const double ms = measured.ms[measured.ms.size() / 2], images = static_cast<double>(flags.batch);
  const double flops = TrainFlops(config) * images / (1e-3 * ms) / world.size();  // a second and rank
  std::string device = "cpu";
  std::optional<double> peak;
  if (context.on_cuda()) {
    device = cuda::Devices()[static_cast<size_t>(context.device().index)].name;
    peak = cuda::PeakBf16Flops(device);
  }
  nlohmann::ordered_json json = {{"program", "shardit"},
                                 {"device", device},
                                 {"precision", NameOf(kPrecisions, flags.precision)},
                                 {"graph_nodes", measured.graph_nodes},  // 0: no graph
                                 {"recompute", NameOf(kRecomputes, flags.recompute)},
                                 {"size", flags.size},
                                 {"depth", config.depth},
                                 {"width", config.width},
                                 {"heads", config.heads},
                                 {"patch", config.patch},
                                 {"side", config.side},
                                 {"parameters", ParameterCount(config)},
                                 {"batch", flags.batch},
                                 {"micro_batch", flags.micro_batch},
                                 {"ranks", world.size()},
                                 {"zero", flags.zero},
                                 {"threads", flags.threads},
                                 {"steps", flags.steps * window},
                                 {"window", window},
                                 {"median_ms", ms},
                                 {"min_ms", measured.ms.front()},
                                 {"max_ms", measured.ms.back()},
                                 {"images_per_s", 1e3 * images / ms},
                                 {"gflops", 1e-9 * flops},
                                 {"tflops", 1e-12 * flops},
                                 {"mfu", nullptr},
                                 {"peak_tflops", nullptr},
                                 {"exposed_comm_ms", measured.exposed_ms[measured.exposed_ms.size() / 2]},
                                 {"loss", measured.loss},
                                 {"peak_bytes", context.allocator().stats().peak_bytes_in_use}};
  if (peak.has_value()) {
    json["mfu"] = flops / *peak;
    json["peak_tflops"] = 1e-12 * *peak;
  }
  return json;
}

void Print(const Flags& flags, const nlohmann::ordered_json& json) {
  const auto number = [&](const char* key) { return json[key].get<double>(); };
  const std::string mfu =
      json["mfu"].is_null() ? "no MFU" : std::to_string(number("mfu") * 100.0).substr(0, 4) + " % MFU";
  std::fprintf(
      stderr,
      "%s batch %ld, %d rank(s), %s %s: median %.2f ms, least %.2f ms, %.1f images/s, %.3f TFLOP/s a rank, %s, "
      "%.2f ms exposed communication, peak %.1f MiB\n",
      flags.size.c_str(), static_cast<long>(flags.batch), json["ranks"].get<int>(),
      json["device"].get<std::string>().c_str(), json["precision"].get<std::string>().c_str(), number("median_ms"),
      number("min_ms"), number("images_per_s"), number("tflops"), mfu.c_str(), number("exposed_comm_ms"),
      number("peak_bytes") / (1 << 20));
  std::printf("%s\n", json.dump(2).c_str());
  if (!flags.json.empty()) {
    std::ofstream file(flags.json);
    file << json.dump(2) << "\n";
    CHECK(file.good()) << "cannot write " << flags.json;
  }
}

int Run(Flags flags, World& world) {
  const DitConfig config = ConfigOf(flags);
  CHECK(flags.batch % world.size() == 0) << "batch " << flags.batch << " over " << world.size() << " ranks";
  if (flags.micro_batch == 0) flags.micro_batch = flags.batch / world.size();
  const auto device = ChooseDevice(world, flags.device, flags.precision);
  if (!device.ok()) {
    std::fprintf(stderr, "step_bench: %s\n", std::string(device.status().message()).c_str());
    return 64;
  }
  RankContext context =
      MakeRankContext({.device = *device, .precision = flags.precision}, CpuShare{.threads = flags.threads});
  if (flags.warmup < 0) flags.warmup = context.on_cuda() ? 5 : 3;
  const int window = flags.window > 0 ? flags.window : context.on_cuda() ? 5 : 1;

  const MeshShape shape{1, world.size(), 1};
  Mesh mesh = *Mesh::Create(shape, world.comm());
  const StepComms comms(mesh, context);
  const ParallelOptions parallel{.dp = world.size(), .zero_stage = flags.zero};
  TrainState state(
      config,
      MakeSharding(config, parallel, /*deterministic=*/false, shape, mesh.coords(), ComputeType(flags.precision)),
      context.allocator());
  FillWeights(state, context);
  const Diffusion diffusion({});
  const Optimizer optimizer({}, {}, 1000);
  TrainStep step(context, state, diffusion, optimizer, comms,
                 {.global_batch = flags.batch,
                  .micro_batch = flags.micro_batch,
                  .recompute = flags.recompute,
                  .cuda_graph = flags.graph});
  Samples samples(config, flags.batch, world);
  const Measured measured = Measure(flags, window, context, step, samples);
  if (world.rank() == 0) Print(flags, JsonOf(flags, config, world, context, window, measured));
  return 0;
}

template <class T>
void AddChoice(CLI::App& app, const char* name, T& value, const std::vector<std::pair<std::string, T>>& names) {
  app.add_option(name, value)->transform(CLI::CheckedTransformer(names, CLI::ignore_case));
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  using namespace shardit;
  auto world = InitMpiWorld(&argc, &argv);
  CHECK(world.ok()) << world.status().message();
  CLI::App app("One training step, timed");
  Flags flags;
  app.add_option("--size", flags.size);
  for (const auto& [name, field] :
       {std::pair{"--depth", &flags.depth}, std::pair{"--width", &flags.width}, std::pair{"--heads", &flags.heads},
        std::pair{"--patch", &flags.patch}, std::pair{"--side", &flags.side}, std::pair{"--batch", &flags.batch},
        std::pair{"--micro-batch", &flags.micro_batch}}) {
    app.add_option(name, *field);
  }
  for (const auto& [name, field] :
       {std::pair{"--threads", &flags.threads}, std::pair{"--steps", &flags.steps},
        std::pair{"--warmup", &flags.warmup}, std::pair{"--window", &flags.window}, std::pair{"--zero", &flags.zero}}) {
    app.add_option(name, *field);
  }
  AddChoice(app, "--device", flags.device, kDevices);
  AddChoice(app, "--precision", flags.precision, kPrecisions);
  AddChoice(app, "--recompute", flags.recompute, kRecomputes);
  AddChoice(app, "--graph", flags.graph, kSwitch);
  app.add_option("--json", flags.json);
  CLI11_PARSE(app, argc, argv);
  return Run(flags, *world);
}
