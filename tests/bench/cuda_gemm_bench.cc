// The matrix products of a training step on a GPU, forward and backward with their epilogues, beside the bf16 peak of
// the vendor's data sheet: as cuBLASLt's first choice of algorithm and as the fastest that tuning finds. Prints a table
// with the sums of a step, and with --json a document.
//
//   cuda_gemm_bench [--models S,B,L,XL] [--batches 8,32,128,256] [--tokens 256] [--runs N] [--only TEXT] [--choices]
//                   [--json FILE]
//
// Models are adaLN-Zero with patches of 2. y is forward, dx the input's gradient, dw the weight's with the bias's, in
// bf16 and, for dw, into fp32. Times are of replayed graphs, as a step is, of one product over and over: what of its
// operands fits into the cache is found there, which flatters the small ones. Operands are standard normal: the clocks
// of a GPU under power limits depend on them.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/cuda/device_query.h"
#include "core/cuda/gemm_plans.h"
#include "core/cuda/graph.h"
#include "core/cuda/peak_flops.h"
#include "core/cuda/trial.h"
#include "core/ops/gemm.h"
#include "core/tensor/copy_rows.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/rng.h"
#include "core/tensor/tensor.h"
#include "model/dit_variants.h"
#include "tests/bench/device_timing.h"

namespace shardit {
namespace {

constexpr double kH100Flops = 989.4e12;  // where the device has no figure of its own

struct Flags {
  std::vector<std::string> models = {"S", "B", "L", "XL"};
  std::vector<int64_t> batches = {8, 32, 128, 256};
  int64_t tokens = 256;
  int runs = 20;
  bool choices = false;
  std::string only, json;
};

struct Product {
  std::string name;
  GemmForm form;
  int64_t m, n, k;
  int64_t count;  // in a step
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  bool accumulate = false;
  int64_t batch = 1;

  double flops() const { return 2.0 * static_cast<double>(m * n) * static_cast<double>(k * batch); }
};

class ProductList {
 public:
  // The three products of a linear layer; `dx_epilogue` is that of the layer's input's gradient.
  void AddLayer(const std::string& layer, int64_t rows, int64_t in, int64_t out, int64_t count,
                GemmEpilogue y_epilogue = GemmEpilogue::kBias, GemmEpilogue dx_epilogue = GemmEpilogue::kNone) {
    products.push_back({layer + " y", GemmForm::kNT, rows, out, in, count, y_epilogue});
    products.push_back({layer + " dx", GemmForm::kNN, rows, in, out, count, dx_epilogue});
    AddWeightGrad(layer, rows, in, out, count);
  }
  void AddWeightGrad(const std::string& layer, int64_t rows, int64_t in, int64_t out, int64_t count) {
    products.push_back({layer + " dw", GemmForm::kTN, out, in, rows, count});
  }

  std::vector<Product> products;
};

std::vector<Product> ProductsOf(const DitConfig& config, int64_t images, int64_t tokens) {
  const int64_t rows = images * tokens, d = config.width, depth = config.depth;
  ProductList list;
  // The position table lies in y already.
  list.products.push_back({"embed y", GemmForm::kNT, rows, d, config.patch_in(), 1, GemmEpilogue::kBias, true});
  list.AddWeightGrad("embed", rows, config.patch_in(), d, 1);
  // All blocks' at once, forward; every block's gradient of the condition is added to the last.
  list.products.push_back(
      {"adaLN y", GemmForm::kNT, images, 6 * d, d, 1, GemmEpilogue::kBias, /*accumulate=*/false, /*batch=*/depth});
  list.products.push_back(
      {"adaLN dx", GemmForm::kNN, images, d, 6 * d, depth, GemmEpilogue::kNone, /*accumulate=*/true});
  list.AddWeightGrad("adaLN", images, d, 6 * d, depth);
  list.AddLayer("qkv", rows, d, 3 * d, depth);
  list.AddLayer("proj", rows, d, d, depth);
  list.AddLayer("fc1", rows, d, 4 * d, depth, GemmEpilogue::kBiasGelu);
  list.AddLayer("fc2", rows, 4 * d, d, depth, GemmEpilogue::kBias, GemmEpilogue::kGeluGrad);
  list.AddLayer("final", rows, d, config.patch_out(), 1);
  return list.products;
}

// A context with its own plans and workspace.
struct Device0 {
  explicit Device0(bool tune) : context(Device::Cuda(0), {.tune_products = tune}, 1) {}
  RankContext context;
};

class Operands {
 public:
  explicit Operands(RankContext& context) : context_(context) {
    constexpr int64_t kNoise = int64_t{1} << 20;
    std::vector<float> noise(kNoise);
    FillNormal({1, RngPurpose::kTest, 0}, 0, kNoise, noise.data());
    noise_ = Tensor::Empty(context.allocator(), {kNoise});
    noise_.FromHost(noise.data());
  }

  GemmArgs Make(const Product& p) {
    tensors_.clear();
    const int64_t a_rows = p.form == GemmForm::kTN ? p.k : p.m, b_rows = p.form == GemmForm::kNT ? p.n : p.k;
    const bool is_dw = p.form == GemmForm::kTN;
    GemmArgs args{.form = p.form, .m = p.m, .n = p.n, .k = p.k, .a = Noise(p.m * p.k)};
    args.lda = p.m * p.k / a_rows;
    args.b = Noise(p.batch * p.n * p.k);
    args.ldb = p.n * p.k / b_rows;
    args.c = Noise(p.batch * p.m * p.n, is_dw ? DType::kF32 : DType::kBF16);
    args.ldc = args.ldaux = p.n;
    args.accumulate = p.accumulate;
    args.epilogue = p.epilogue;
    args.bias = Noise(p.batch * p.n);
    if (p.epilogue == GemmEpilogue::kBiasGelu || p.epilogue == GemmEpilogue::kGeluGrad) args.aux = Noise(p.m * p.n);
    if (is_dw) args.column_sums = Noise(p.m, DType::kF32);
    args.batch = p.batch;
    args.b_stride = p.n * p.k;
    args.bias_stride = p.n;
    args.c_stride = p.m * p.n;
    return args;
  }

 private:
  Elements Noise(int64_t count, DType dtype = DType::kBF16) {
    tensors_.push_back(Tensor::Empty(context_.allocator(), {count}, dtype));
    const Elements to = tensors_.back().ref();
    for (int64_t first = 0; first < count; first += noise_.elements()) {
      CopyRows({.source = noise_.ref(),
                .destination = to.At(first),
                .rows = 1,
                .count = std::min(noise_.elements(), count - first)},
               context_);
    }
    return to;
  }

  RankContext& context_;
  Tensor noise_;
  std::vector<Tensor> tensors_;
};

// Seconds of one product.
double Time(const GemmArgs& args, RankContext& context, int runs) {
  const Stream stream = context.cuda().stream;
  Gemm(args, context);  // chooses the algorithm
  const double once = 1e-6 * cuda::TimeOnStream(stream, [&] { Gemm(args, context); });
  const int repeats = std::clamp(static_cast<int>(1e-3 / once), 1, 50);
  const std::unique_ptr<cuda::Graph> graph = cuda::Graph::Capture(stream, [&] {
    for (int i = 0; i < repeats; ++i) Gemm(args, context);
  });
  return bench::MeasureOnDevice(stream, runs, [&](int) { graph->Launch(stream); }).median / repeats;
}

struct Sum {
  double flops = 0, first = 0, tuned = 0;  // of a step, seconds
};

void PrintLine(const std::string& name, const std::string& sizes, int64_t count, double first, double tuned,
               double rate, double peak) {
  std::printf("%-20s %-26s %5ld %10.1f %10.1f %8.1f %6.1f\n", name.c_str(), sizes.c_str(), count, 1e6 * first,
              1e6 * tuned, 1e-12 * rate, 100 * rate / peak);
}

class Bench {
 public:
  Bench(const Flags& flags, double peak) : flags_(flags), peak_(peak), first_(false), tuned_(true) {}

  void Run(const std::string& model, int64_t images) {
    const absl::StatusOr<DitConfig> config = FindVariant("DiT-" + model + "/2");
    CHECK(config.ok()) << config.status();
    const std::string title = model + "/2 batch " + std::to_string(images);
    std::printf("%-20s %-26s %5s %10s %10s %8s %6s\n", title.c_str(), "m x n x k", "count", "first us", "tuned us",
                "TFLOP/s", "%peak");
    Sum sum;
    for (const Product& product : ProductsOf(*config, images, flags_.tokens)) {
      if (product.name.find(flags_.only) == std::string::npos) continue;
      const double count = static_cast<double>(product.count);
      const double first = TimeWith(first_.context, product), tuned = TimeWith(tuned_.context, product);
      sum.flops += count * product.flops();
      sum.first += count * first;
      sum.tuned += count * tuned;
      Report(model, images, product, first, tuned);
    }
    if (sum.tuned == 0) return;
    PrintLine("all of a step", "", 1, sum.first, sum.tuned, sum.flops / sum.tuned, peak_);
    std::printf("\n");
    steps_.push_back({{"model", model},
                      {"batch", images},
                      {"first_us", 1e6 * sum.first},
                      {"tuned_us", 1e6 * sum.tuned},
                      {"tflops", 1e-12 * sum.flops / sum.tuned},
                      {"of_peak", sum.flops / sum.tuned / peak_}});
  }

  const nlohmann::ordered_json& rows() const { return rows_; }
  const nlohmann::ordered_json& steps() const { return steps_; }
  std::string Choices() { return tuned_.context.cuda().gemm_plans->Table(); }

 private:
  double TimeWith(RankContext& context, const Product& product) {
    Operands operands(context);
    const double seconds = Time(operands.Make(product), context, flags_.runs);
    context.Synchronize();
    return seconds;
  }
  void Report(const std::string& model, int64_t images, const Product& p, double first, double tuned) {
    const std::string sizes = (p.batch > 1 ? std::to_string(p.batch) + " * " : "") + std::to_string(p.m) + " x " +
                              std::to_string(p.n) + " x " + std::to_string(p.k);
    const double rate = p.flops() / tuned;
    PrintLine("  " + p.name, sizes, p.count, first, tuned, rate, peak_);
    rows_.push_back({{"model", model},
                     {"batch", images},
                     {"product", p.name},
                     {"m", p.m},
                     {"n", p.n},
                     {"k", p.k},
                     {"products", p.batch},
                     {"count", p.count},
                     {"first_us", 1e6 * first},
                     {"tuned_us", 1e6 * tuned},
                     {"tflops", 1e-12 * rate},
                     {"of_peak", rate / peak_}});
  }

  const Flags& flags_;
  const double peak_;
  Device0 first_, tuned_;
  nlohmann::ordered_json rows_ = nlohmann::ordered_json::array(), steps_ = nlohmann::ordered_json::array();
};

int Run(const Flags& flags) {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  if (devices.empty()) {
    std::printf("no GPU: %s\n", cuda::WhyNoDevice().c_str());
    return 0;
  }
  const std::string& name = devices[0].name;
  const double peak = cuda::PeakBf16Flops(name).value_or(kH100Flops);
  std::printf("%s, %% of %.1f TFLOP/s\n", name.c_str(), 1e-12 * peak);
  Bench bench(flags, peak);
  for (const std::string& model : flags.models) {
    for (const int64_t images : flags.batches) bench.Run(model, images);
  }
  if (flags.choices) std::printf("%s", bench.Choices().c_str());
  if (flags.json.empty()) return 0;
  const nlohmann::ordered_json document = {
      {"bench", "cuda_gemm"}, {"version", SHARDIT_VERSION}, {"device", name},       {"peak_tflops", 1e-12 * peak},
      {"runs", flags.runs},   {"tokens", flags.tokens},     {"rows", bench.rows()}, {"steps", bench.steps()}};
  std::ofstream(flags.json) << document.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Flags flags;
  CLI::App app("Matrix products of a training step on a GPU");
  app.add_option("--models", flags.models, "sizes of the paper")
      ->delimiter(',')
      ->check(CLI::IsMember({"S", "B", "L", "XL"}));
  app.add_option("--batches", flags.batches, "images")->delimiter(',')->check(CLI::Range(1, 4096));
  app.add_option("--tokens", flags.tokens, "of an image")->check(CLI::Range(1, 4096));
  app.add_option("--runs", flags.runs, "timed runs of each")->check(CLI::Range(1, 10000));
  app.add_option("--only", flags.only, "products whose name contains this");
  app.add_flag("--choices", flags.choices, "print which algorithms were chosen");
  app.add_option("--json", flags.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  return shardit::Run(flags);
}
