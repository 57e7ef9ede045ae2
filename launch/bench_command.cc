// shardit bench: how fast this machine is at what a training step does.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status_macros.h"
#include "core/ops/attention_kernel.h"
#include "core/ops/gemm.h"
#include "core/tensor/rank_context.h"
#include "data/loader.h"
#include "launch/command_line.h"
#include "launch/json/json.h"

namespace shardit {
namespace {

struct Flags {
  std::string data;
  int64_t threads = 0;
  int64_t runs = 20;
  bool json = false;
};

// One figure: `rate` is work over the median time, in `unit`.
struct Row {
  std::string name, shape;
  double median_ms = 0.0, rate = 0.0;
  std::string unit;
};

double MedianSeconds(int64_t runs, absl::FunctionRef<void()> body) {
  using Clock = std::chrono::steady_clock;
  body();  // warm-up: memory and caches
  std::vector<double> seconds(static_cast<size_t>(runs));
  for (double& time : seconds) {
    const Clock::time_point begin = Clock::now();
    body();
    time = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Row Rated(std::string name, std::string shape, double seconds, double work, std::string unit) {
  return {std::move(name), std::move(shape), 1e3 * seconds, work / seconds, std::move(unit)};
}

Row BenchCopy(RankContext& context, int64_t runs) {
  constexpr int64_t kElements = int64_t{1} << 25;  // 128 MiB: beyond the caches
  std::vector<float> from(kElements, 1.0f), to(kElements);
  const double seconds = MedianSeconds(runs, [&] {
    context.pool().ParallelFor(kElements, 1, [&](int64_t begin, int64_t end, int) {
      std::copy(from.begin() + begin, from.begin() + end, to.begin() + begin);
    });
  });
  return Rated("copy", "128 MiB", seconds, 1e-9 * 2.0 * sizeof(float) * kElements, "GB/s");
}

// The forward product of a linear layer: tokens x width -> tokens x outputs.
Row BenchGemm(RankContext& context, int64_t runs, int64_t tokens, int64_t outputs, int64_t width) {
  std::vector<float> x(tokens * width, 0.5f), w(outputs * width, 0.25f), y(tokens * outputs);
  const GemmArgs args = {.form = GemmForm::kNT,
                         .m = tokens,
                         .n = outputs,
                         .k = width,
                         .a = x.data(),
                         .lda = width,
                         .b = w.data(),
                         .ldb = width,
                         .c = y.data(),
                         .ldc = outputs};
  const double seconds = MedianSeconds(runs, [&] { cpu::Gemm(args, context.cpu()); });
  return Rated("gemm", fmt::format("{} x {} x {}", tokens, outputs, width), seconds,
               2e-9 * static_cast<double>(tokens * outputs * width), "GFLOP/s");
}

Row BenchAttention(RankContext& context, int64_t runs) {
  constexpr int64_t kBatch = 4, kTokens = 256, kHeads = 6, kHeadDim = 64, kRow = kHeads * kHeadDim;
  std::vector<float> qkv(kBatch * kTokens * 3 * kRow, 0.1f), out(kBatch * kTokens * kRow);
  const auto part = [&](int64_t p) {
    return ConstHeadsView{qkv.data() + p * kRow, kTokens * 3 * kRow, 3 * kRow, kHeadDim};
  };
  AttentionFwdArgs args;
  args.shape = {
      .batch = kBatch, .heads = kHeads, .head_dim = kHeadDim, .queries = kTokens, .keys = kTokens, .scale = 0.125f};
  args.q = part(0);
  args.k = part(1);
  args.v = part(2);
  args.out = {out.data(), kTokens * kRow, kRow, kHeadDim};
  const double seconds = MedianSeconds(runs, [&] { cpu::AttentionFwd(args, context.cpu()); });
  return Rated("attention", "4 x 256 tokens, 6 heads of 64", seconds, 4e-9 * kBatch * kTokens * kTokens * kRow,
               "GFLOP/s");
}

std::vector<Row> BenchKernels(const Flags& flags, int local_ranks) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / local_ranks);
  RankContext context(flags.threads > 0 ? static_cast<int>(flags.threads) : cores);
  return {BenchCopy(context, flags.runs), BenchGemm(context, flags.runs, 1024, 1152, 384),
          BenchGemm(context, flags.runs, 1024, 1536, 384), BenchGemm(context, flags.runs, 1024, 384, 1536),
          BenchAttention(context, flags.runs)};
}

// All-reduce over the world: bus bandwidth is what the links carry, 2 (n - 1) / n of the payload.
std::vector<Row> BenchCollectives(World& world, int64_t runs) {
  std::vector<Row> rows;
  if (world.size() == 1) return rows;
  for (const int64_t count : {int64_t{1}, int64_t{1} << 16, int64_t{1} << 20, int64_t{1} << 23}) {
    std::vector<float> data(static_cast<size_t>(count), 1.0f), sum(data.size());
    const double seconds = MedianSeconds(
        runs, [&] { world.comm().AllReduce(data.data(), sum.data(), count, ReduceOp::kSum, {.tag = "bench"}).Wait(); });
    const double bytes = 4.0 * static_cast<double>(count) * 2.0 * (world.size() - 1) / world.size();
    rows.push_back(
        Rated("all-reduce", fmt::format("{} floats, {} ranks", count, world.size()), seconds, 1e-9 * bytes, "GB/s"));
  }
  return rows;
}

absl::StatusOr<Row> BenchLoader(const Flags& flags) {
  constexpr int64_t kBatch = 256, kSteps = 200;
  ASSIGN_OR_RETURN(const std::shared_ptr<const Dataset> dataset,
                   Dataset::Open({.path = flags.data, .in_memory = false, .classes = 0}));
  ASSIGN_OR_RETURN(const std::unique_ptr<Loader> loader, Loader::Create(dataset, {.global_batch = kBatch}));
  absl::Status status;
  const double seconds = MedianSeconds(3, [&] {
    for (int64_t step = 0; step < kSteps && status.ok(); ++step) status = loader->Next().status();
  });
  RETURN_IF_ERROR(status);
  return Rated("loader", fmt::format("{} random samples", kBatch * kSteps), seconds,
               static_cast<double>(kBatch * kSteps), "samples/s");
}

std::string ToText(const std::vector<Row>& rows) {
  std::string text = fmt::format("{:<11} {:<31} {:>10} {:>12}", "what", "shape", "median ms", "rate");
  for (const Row& row : rows) {
    fmt::format_to(std::back_inserter(text), "\n{:<11} {:<31} {:>10.4f} {:>12.2f} {}", row.name, row.shape,
                   row.median_ms, row.rate, row.unit);
  }
  return text;
}

std::string ToJson(const std::vector<Row>& rows) {
  Json json = Json::array();
  for (const Row& row : rows) {
    json.push_back({{"name", row.name},
                    {"shape", row.shape},
                    {"median_ms", row.median_ms},
                    {"rate", row.rate},
                    {"unit", row.unit}});
  }
  return JsonText(json);
}

absl::Status Run(World& world, const Flags& flags) {
  std::vector<Row> rows;
  absl::Status status;
  // One rank at a time has the machine; the others wait for it.
  if (world.rank() == 0) {
    rows = BenchKernels(flags, world.local_size());
    if (!flags.data.empty()) {
      absl::StatusOr<Row> loader = BenchLoader(flags);
      status = loader.status();
      if (loader.ok()) rows.push_back(*loader);
    }
  }
  world.comm().Barrier({.tag = "bench", .control = true}).Wait();
  for (Row& row : BenchCollectives(world, flags.runs)) rows.push_back(std::move(row));
  RETURN_IF_ERROR(status);
  return world.rank() == 0 ? Print(flags.json ? ToJson(rows) : ToText(rows)) : absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CommandLine& line) {
  CLI::App* command = line.Add("bench", "Measure kernels, collectives and loader", "mpirun -n 2 shardit bench --json");
  auto* flags = line.Keep<Flags>();
  command->add_option("--data", flags->data, "Measure reading this data set too")->type_name("FILE");
  command->add_option("--threads", flags->threads, "Threads (0: cores / local ranks)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}, ""));
  command->add_option("--runs", flags->runs, "Timed runs of each (default 20)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}, ""));
  command->add_flag("--json", flags->json, "Print one JSON array");
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
