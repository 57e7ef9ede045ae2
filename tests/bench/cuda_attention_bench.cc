// Attention on a GPU at the shapes of DiTs, forward and backward, in bf16 on fused [N, T, 3, H, K] operands as a step
// has them. Prints a table, and with --json a document; says so and exits with 0 where there is no GPU.
//
//   cuda_attention_bench [--runs N] [--only TEXT] [--json FILE]
//
// TFLOP/s counts the products that attention is made of: 4 T S K a head forward, 10 T S K backward, though backward
// does
// 14. GB/s counts every operand once. Runs take turns over copies of the operands that together exceed the device's
// cache.
//
// What to expect of an H100 (132 multiprocessors at 1.755 GHz), for one (batch, head) of 256 tokens of 72. The pipes
// are separate; the slowest bounds the time, and how well they overlap decides what is reached of it. mma.sync reaches
// 63% of the data sheet's 989 TFLOP/s (Luo et al., arXiv 2402.13499), the rest needs wgmma.
//
//   nanoseconds                        forward   backward
//   device memory at 3.0 TB/s             49        98      4 and 8 operands of 36,864 bytes
//   products at 620 TFLOP/s               30       107      2 and 7 of 9.44 Mflop
//   shared memory at 29.6 TB/s            22       115      forward 8 strips x 2 operands; backward 16 x 4 and 8 x 3
//   exponentials at 3.7 T/s               18        35      65,536 and twice that
//   bound, TFLOP/s                       384       410
//
// So forward is bound by memory at large batches, where heads do not lie in the second-level cache. Three blocks of
// four warps share a multiprocessor (168 registers a thread, 74 KB a block), and one loads while others compute.
// Backward has three pipes near their bound and eight warps a multiprocessor (255 registers), two a scheduler: 60 to
// 70% of the bound would be good. At 16 tokens everything is latency and memory; at 1024 products are four times as
// many for each byte, and forward becomes bound by them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/cuda/device_query.h"
#include "core/ops/attention_kernel.h"
#include "core/tensor/copy_rows.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/rng.h"
#include "core/tensor/tensor.h"
#include "tests/bench/device_timing.h"

namespace shardit {
namespace {

constexpr double kCacheBytes = 200e6;  // several times any device's
constexpr double kPeakTflops = 989.4;  // H100, dense bf16

struct Flags {
  int runs = 30;
  std::string only, json;
};

struct Model {
  const char* name;
  int64_t heads, head_dim;
};
constexpr Model kModels[] = {{"S", 6, 64}, {"B", 12, 64}, {"L", 16, 64}, {"XL", 16, 72}};

// What one layer's attention reads and writes.
struct Operands {
  Operands(RankContext& context, const AttentionShape& shape) {
    Allocator& allocator = context.allocator();
    const int64_t width = shape.heads * shape.head_dim;
    qkv = Tensor::Empty(allocator, {shape.batch, shape.queries, 3 * width}, DType::kBF16);
    d_qkv = Tensor::Empty(allocator, qkv.shape(), DType::kBF16);
    out = Tensor::Empty(allocator, {shape.batch, shape.queries, width}, DType::kBF16);
    d_out = Tensor::Empty(allocator, out.shape(), DType::kBF16);
    lse = Tensor::Empty(allocator, {shape.batch, shape.heads, shape.queries});
    // Every image the same numbers: a device's clock depends on them, not on whether they repeat.
    std::vector<float> numbers(static_cast<size_t>(3 * width * shape.queries));
    FillNormal({1, RngPurpose::kTest, 1}, 0, static_cast<int64_t>(numbers.size()), numbers.data());
    const Tensor image = Tensor::Empty(allocator, {static_cast<int64_t>(numbers.size())});
    image.FromHost(numbers.data());
    for (const Tensor& tensor : {qkv, d_out}) {
      const int64_t count = tensor.elements() / shape.batch;
      CopyRows({.source = image.ref(),
                .destination = tensor.ref(),
                .destination_stride = count,
                .rows = shape.batch,
                .count = count},
               context);
    }
  }

  Tensor qkv, d_qkv, out, d_out, lse;
};

HeadsView Part(const Tensor& tensor, int64_t part, const AttentionShape& shape) {
  return {tensor.ref().At(part * shape.heads * shape.head_dim), tensor.stride(0), tensor.stride(1), shape.head_dim};
}

AttentionFwdArgs FwdOf(const Operands& x, const AttentionShape& shape) {
  return {shape,       Part(x.qkv, 0, shape), Part(x.qkv, 1, shape), Part(x.qkv, 2, shape), Part(x.out, 0, shape),
          x.lse.data()};
}

AttentionBwdArgs BwdOf(const Operands& x, const AttentionShape& shape) {
  AttentionBwdArgs args{.shape = shape};
  args.q = Part(x.qkv, 0, shape);
  args.k = Part(x.qkv, 1, shape);
  args.v = Part(x.qkv, 2, shape);
  args.out = Part(x.out, 0, shape);
  args.d_out = Part(x.d_out, 0, shape);
  args.lse = x.lse.data();
  args.dq = Part(x.d_qkv, 0, shape);
  args.dk = Part(x.d_qkv, 1, shape);
  args.dv = Part(x.d_qkv, 2, shape);
  return args;
}

class Bench {
 public:
  Bench(RankContext& context, const Flags& flags) : context_(context), flags_(flags) {
    std::printf("%-20s %6s %4s %4s %10s %9s %9s %6s\n", "case", "batch", "H", "K", "us", "TFLOP/s", "GB/s", "% peak");
  }

  void Run(const Model& model, int64_t tokens, int64_t batch) {
    const AttentionShape shape{.batch = batch,
                               .heads = model.heads,
                               .head_dim = model.head_dim,
                               .queries = tokens,
                               .keys = tokens,
                               .scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim))};
    const std::string name = std::string(model.name) + " T=" + std::to_string(tokens);
    if ((name + " batch " + std::to_string(batch)).find(flags_.only) == std::string::npos) return;
    const double operand = 2.0 * static_cast<double>(batch * tokens * model.heads * model.head_dim);
    const double product = 2.0 * static_cast<double>(batch * model.heads * tokens * tokens * model.head_dim);
    const size_t copies = static_cast<size_t>(std::clamp(kCacheBytes / (8 * operand) + 1, 1.0, 64.0));
    std::vector<Operands> sets;
    for (size_t i = 0; i < copies; ++i) sets.emplace_back(context_, shape);
    const auto set = [&](int run) -> const Operands& { return sets[static_cast<size_t>(run) % copies]; };
    for (const Operands& x : sets) cuda::AttentionFwd(FwdOf(x, shape), context_.cuda());  // backward reads its results
    Report(name + " fwd", shape, 2 * product, 4 * operand,
           [&](int run) { cuda::AttentionFwd(FwdOf(set(run), shape), context_.cuda()); });
    Report(name + " bwd", shape, 5 * product, 8 * operand,
           [&](int run) { cuda::AttentionBwd(BwdOf(set(run), shape), context_.cuda()); });
  }

  nlohmann::ordered_json rows() const { return rows_; }

 private:
  template <class Body>
  void Report(const std::string& name, const AttentionShape& shape, double flops, double bytes, const Body& body) {
    const bench::Timing timing = bench::MeasureOnDevice(context_.cuda().stream, flags_.runs, body);
    const double tflops = 1e-12 * flops / timing.median, rate = 1e-9 * bytes / timing.median;
    std::printf("%-20s %6ld %4ld %4ld %10.1f %9.1f %9.1f %6.1f\n", name.c_str(), static_cast<long>(shape.batch),
                static_cast<long>(shape.heads), static_cast<long>(shape.head_dim), 1e6 * timing.median, tflops, rate,
                100 * tflops / kPeakTflops);
    rows_.push_back({{"name", name},
                     {"batch", shape.batch},
                     {"tokens", shape.queries},
                     {"heads", shape.heads},
                     {"head_dim", shape.head_dim},
                     {"median_us", 1e6 * timing.median},
                     {"least_us", 1e6 * timing.least},
                     {"tflops", tflops},
                     {"gb_per_s", rate}});
  }

  RankContext& context_;
  const Flags& flags_;
  nlohmann::ordered_json rows_ = nlohmann::ordered_json::array();
};

int Run(const Flags& flags) {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  if (devices.empty()) {
    std::printf("no GPU: %s\n", cuda::WhyNoDevice().c_str());
    return 0;
  }
  RankContext context(Device::Cuda(0), {}, 1);
  std::printf("%s\n", devices[0].name.c_str());
  Bench bench(context, flags);
  for (const int64_t tokens : {256, 16, 1024}) {
    for (const Model& model : kModels) {
      for (const int64_t batch : {8, 32, 128, 256}) bench.Run(model, tokens, batch);
    }
  }
  if (flags.json.empty()) return 0;
  const nlohmann::ordered_json document = {{"bench", "cuda_attention"},
                                           {"version", SHARDIT_VERSION},
                                           {"device", devices[0].name},
                                           {"runs", flags.runs},
                                           {"rows", bench.rows()}};
  std::ofstream file(flags.json);
  file << document.dump(1) << "\n";
  file.close();
  if (file) return 0;
  std::fprintf(stderr, "cannot write %s\n", flags.json.c_str());
  return 74;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Flags flags;
  CLI::App app("Attention's products a second on a GPU");
  app.add_option("--runs", flags.runs, "timed runs of each")->check(CLI::Range(1, 10000));
  app.add_option("--only", flags.only, "cases whose name contains this, such as \"XL T=256 batch 128\"");
  app.add_option("--json", flags.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  return shardit::Run(flags);
}
