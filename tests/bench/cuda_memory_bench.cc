// What on a GPU is bounded by its memory, as a share of the bandwidth of a device copy in the same run: the optimizer's
// pass, squares for the norm, the norm and gate kernels, noise and loss. Prints a table, and with --json a document.
//
//   cuda_memory_bench [--elements N] [--runs N] [--only TEXT] [--json FILE]
//
// Bytes are those that must move: every operand once. Runs take turns over copies of the operands that together exceed
// the device's cache several times, since in a training step nothing of them would still lie there. Times include the
// gaps between the kernels of one operation (the loss has two), not the launch, which a step records.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/cuda/device_query.h"
#include "core/ops/adamw.h"
#include "core/ops/norm_kernel.h"
#include "core/tensor/rank_context.h"
#include "model/diffusion_batch.h"
#include "tests/bench/device_timing.h"

namespace shardit {
namespace {

constexpr double kCacheBytes = 512e6;  // several times any device's

struct Flags {
  int64_t elements = int64_t{1} << 28;
  int runs = 30;
  std::string only, json;
};

// One run over operands of `bytes`; `set` counts the copies of the operands.
using Body = std::function<void(int set)>;

class Bench {
 public:
  Bench(RankContext& context, const Flags& flags) : context_(context), flags_(flags) {}

  RankContext& context() { return context_; }
  bool wants(const std::string& name) const { return name.find(flags_.only) != std::string::npos; }
  // Copies of operands of so many bytes that runs should take turns over.
  static int Sets(double bytes) { return std::clamp(static_cast<int>(kCacheBytes / bytes) + 1, 1, 64); }
  Tensor Make(Shape shape, DType dtype = DType::kF32) { return Tensor::Zeros(context_.allocator(), shape, dtype); }

  // Returns bytes a second.
  double Report(const std::string& name, double bytes, int sets, const Body& body) {
    const bench::Timing timing =
        bench::MeasureOnDevice(context_.cuda().stream, flags_.runs, [&](int run) { body(run % sets); });
    const double rate = bytes / timing.median;
    if (copy_rate_ == 0) copy_rate_ = rate;
    std::printf("%-44s %10.1f us %8.1f GB/s %6.1f%% of copy\n", name.c_str(), 1e6 * timing.median, 1e-9 * rate,
                100 * rate / copy_rate_);
    rows_.push_back({{"name", name},
                     {"bytes", bytes},
                     {"median_us", 1e6 * timing.median},
                     {"least_us", 1e6 * timing.least},
                     {"gb_per_s", 1e-9 * rate},
                     {"of_copy", rate / copy_rate_}});
    return rate;
  }

  nlohmann::ordered_json rows() const { return rows_; }

 private:
  RankContext& context_;
  const Flags& flags_;
  double copy_rate_ = 0;
  nlohmann::ordered_json rows_ = nlohmann::ordered_json::array();
};

// First, since the others are measured by it.
void Copy(Bench& bench) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const Tensor from = bench.Make({kBytes}, DType::kU8), to = bench.Make({kBytes}, DType::kU8);
  bench.Report("copy", 2.0 * kBytes, 1, [&](int) { to.CopyFrom(from); });
}

// A struct in device memory.
template <class T>
Tensor OnDevice(Bench& bench, const T& value) {
  const Tensor bytes = bench.Make({static_cast<int64_t>(sizeof(T))}, DType::kU8);
  bytes.FromHost(&value);
  return bytes;
}

void Optimizer(Bench& bench, int64_t count) {
  std::vector<Tensor> ranges;
  for (int i = 0; i < 5; ++i) ranges.push_back(bench.Make({count}));
  const Tensor compute = bench.Make({count}, DType::kBF16);
  cuda::AdamwRun run{.count = count};
  cuda::SquaresRun squares{.count = count};
  const int64_t tiles = cuda::PlaceTiles({&run, 1}), blocks = cuda::PlaceBlocks({&squares, 1});
  const Tensor runs = OnDevice(bench, run), squares_runs = OnDevice(bench, squares);
  const Tensor scalars = OnDevice(bench, AdamwScalars{.step = 1e-4f, .eps = 1e-8f});
  const Tensor skip = bench.Make({1}, DType::kI32), limbs = bench.Make({exact::kLimbs}, DType::kI64);
  for (const bool rounds : {true, false}) {
    const std::string name = rounds ? "adamw_ema bf16, 38 B" : "adamw_ema fp32, 36 B";
    if (!bench.wants(name)) continue;
    bench.Report(name, (rounds ? 38.0 : 36.0) * static_cast<double>(count), 1, [&](int) {
      cuda::AdamwEma({.runs = static_cast<const cuda::AdamwRun*>(runs.raw()),
                      .run_count = 1,
                      .tiles = tiles,
                      .param = ranges[0].data(),
                      .grad = ranges[1].data(),
                      .m = ranges[2].data(),
                      .v = ranges[3].data(),
                      .ema = ranges[4].data(),
                      .compute = rounds ? compute.data<BFloat16>() : nullptr,
                      .scalars = static_cast<const AdamwScalars*>(scalars.raw()),
                      .skip = skip.data<int32_t>()},
                     bench.context().cuda());
    });
  }
  if (!bench.wants("sum_of_squares")) return;
  bench.Report("sum_of_squares", 4.0 * static_cast<double>(count), 1, [&](int) {
    cuda::SumOfSquares({.runs = static_cast<const cuda::SquaresRun*>(squares_runs.raw()),
                        .run_count = 1,
                        .blocks = blocks,
                        .values = ranges[1].data(),
                        .limbs = limbs.data<int64_t>()},
                       bench.context().cuda());
  });
}

// Operands of one norm: token tensors in bf16, rows and their gradients as adaLN has them.
struct NormOperands {
  NormOperands(Bench& bench, const NormShape& shape) {
    const Shape tokens{shape.images, shape.tokens, shape.width};
    for (Tensor* tensor : {&x, &y, &r, &h, &dh, &dr, &dx, &dy}) *tensor = bench.Make(tokens, DType::kBF16);
    for (Tensor* tensor : {&gate, &scale, &shift}) *tensor = bench.Make({shape.images, shape.width}, DType::kBF16);
    for (Tensor* tensor : {&dgate, &dscale, &dshift}) *tensor = bench.Make({shape.images, shape.width});
    for (Tensor* tensor : {&mean, &rstd}) *tensor = bench.Make({shape.images, shape.tokens});
  }
  Tensor x, y, r, h, dh, dr, dx, dy, gate, scale, shift, dgate, dscale, dshift, mean, rstd;
};

void Norms(Bench& bench, const std::string& size, int64_t width, int64_t images) {
  const NormShape shape{images, 256, width};
  const double tensor = 2.0 * static_cast<double>(images * 256 * width);
  const std::string suffix = " " + size + " batch " + std::to_string(images);
  const auto report = [&](const std::string& name, double tensors, const auto& body) {
    if (!bench.wants(name + suffix)) return;
    std::vector<NormOperands> sets;
    for (int i = 0; i < Bench::Sets(tensors * tensor); ++i) sets.emplace_back(bench, shape);
    bench.Report(name + suffix, tensors * tensor, static_cast<int>(sets.size()),
                 [&](int set) { body(sets[static_cast<size_t>(set)], bench.context().cuda()); });
  };
  const auto rows = [&](const Tensor& rows) { return ImageRows{rows.ref(), width}; };
  const auto grads = [&](const Tensor& rows) { return ImageRowsGrad{rows.ref(), width}; };
  const auto forward = [&](const NormOperands& o) {
    NormFwdArgs args{.shape = shape, .x = o.x.ref()};
    args.h = o.h.ref();
    args.eps = 1e-6f;
    args.scale = rows(o.scale);
    args.scale_offset = 1;
    args.shift = rows(o.shift);
    args.mean = o.mean.data();
    args.rstd = o.rstd.data();
    return args;
  };
  const auto backward = [&](const NormOperands& o) {
    NormBwdArgs args{.shape = shape, .dh = o.dh.ref(), .dr_in = o.dr.ref(), .dx = o.dx.ref(), .r = o.r.ref()};
    args.mean = o.mean.data();
    args.rstd = o.rstd.data();
    args.scale = rows(o.scale);
    args.scale_offset = 1;
    args.dscale = grads(o.dscale);
    args.dshift = grads(o.dshift);
    return args;
  };
  report("norm_fwd x->h", 2, [&](const NormOperands& o, CudaContext& cuda) { cuda::NormFwd(forward(o), cuda); });
  report("gated_residual_norm_fwd x,y->r,h", 4, [&](const NormOperands& o, CudaContext& cuda) {
    NormFwdArgs args = forward(o);
    args.y = o.y.ref();
    args.gate = rows(o.gate);
    args.r = o.r.ref();
    cuda::NormFwd(args, cuda);
  });
  report("norm_bwd dh,dr,r->dx", 4,
         [&](const NormOperands& o, CudaContext& cuda) { cuda::NormBwd(backward(o), cuda); });
  report("gated_residual_norm_bwd dh,dr,r,y->dx,dy", 6, [&](const NormOperands& o, CudaContext& cuda) {
    NormBwdArgs args = backward(o);
    args.gate = rows(o.gate);
    args.y = o.y.ref();
    args.dy = o.dy.ref();
    args.dgate = grads(o.dgate);
    cuda::NormBwd(args, cuda);
  });
}

// What of `Batch` and output a step's first and last kernels touch.
void NoiseAndLoss(Bench& bench, int64_t images) {
  const DitConfig config{.depth = 1, .width = 64, .heads = 1, .patch = 2};
  const Diffusion diffusion({});
  const std::string suffix = " batch " + std::to_string(images);
  const std::string noise_name = "noise x_0->noise,x_t" + suffix,
                    loss_name = "loss x_0,noise,output->d_output" + suffix;
  if (!bench.wants(noise_name) && !bench.wants(loss_name)) return;
  const double latents = 4.0 * static_cast<double>(images * config.latent_elements());
  RankContext& context = bench.context();
  const Tensor table = LossTable(context.allocator(), diffusion);
  std::vector<SampleTensors> samples;
  std::vector<int64_t> positions(static_cast<size_t>(images));
  const int sets = Bench::Sets(3 * latents);
  for (int set = 0; set < sets; ++set) {
    for (size_t n = 0; n < positions.size(); ++n) positions[n] = set * images + static_cast<int64_t>(n);
    samples.push_back({bench.Make({images, config.channels, config.side, config.side}),
                       bench.Make({images}, DType::kI32), bench.Make({images}, DType::kI64)});
    samples.back().positions.FromHost(positions.data());
  }
  std::vector<DiffusionBatch> batches(samples.size());
  const auto draw = [&](int set) {
    const size_t i = static_cast<size_t>(set);
    batches[i] = DrawBatch(context, config, table, /*seed=*/1, samples[i]);
  };
  for (int set = 0; set < sets; ++set) draw(set);
  if (bench.wants(noise_name)) bench.Report(noise_name, 3 * latents, sets, draw);
  if (!bench.wants(loss_name)) return;
  std::vector<Tensor> outputs, gradients;
  for (int set = 0; set < sets; ++set) {
    outputs.push_back(bench.Make({images, 2 * config.channels, config.side, config.side}));
    gradients.push_back(bench.Make(outputs.back().shape()));
  }
  const Tensor per_image = bench.Make({images, 2}, DType::kF64);
  bench.Report(loss_name, 6 * latents, sets, [&](int set) {
    const size_t i = static_cast<size_t>(set);
    cuda::DiffusionLoss({.images = images,
                         .elements = config.latent_elements(),
                         .learn_sigma = true,
                         .constants = static_cast<const LossConstants*>(batches[i].constants.raw()),
                         .x_0 = samples[i].x.data(),
                         .noise = batches[i].noise.data(),
                         .output = outputs[i].data(),
                         .denominator = static_cast<double>(images),
                         .d_output = gradients[i].data(),
                         .per_image = static_cast<ImageLoss*>(per_image.raw())},
                        context.cuda());
  });
}

int Run(const Flags& flags) {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  if (devices.empty()) {
    std::printf("no GPU: %s\n", cuda::WhyNoDevice().c_str());
    return 0;
  }
  RankContext context(Device::Cuda(0), {}, 1);
  Bench bench(context, flags);
  std::printf("%s\n", devices[0].name.c_str());
  Copy(bench);
  Optimizer(bench, flags.elements);
  for (const int64_t images : {32, 128}) {
    Norms(bench, "B", 768, images);
    Norms(bench, "XL", 1152, images);
    NoiseAndLoss(bench, images);
  }
  if (flags.json.empty()) return 0;
  const nlohmann::ordered_json document = {{"bench", "cuda_memory"},    {"version", SHARDIT_VERSION},
                                           {"device", devices[0].name}, {"elements", flags.elements},
                                           {"runs", flags.runs},        {"rows", bench.rows()}};
  std::ofstream(flags.json) << document.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Flags flags;
  CLI::App app("Bandwidth of a GPU's memory-bound kernels");
  app.add_option("--elements", flags.elements, "parameters that the optimizer is timed on");
  app.add_option("--runs", flags.runs, "timed runs of each")->check(CLI::Range(1, 10000));
  app.add_option("--only", flags.only, "operations whose name contains this, and the copy");
  app.add_option("--json", flags.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  return shardit::Run(flags);
}
