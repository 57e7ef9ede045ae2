// GEMM at the shapes of a DiT block, forward and backward, on one and two threads, beside the multiply-add peak of one
// core. Usage: gemm_bench [--peers] [--only TEXT] [--json FILE]
//   --only   products whose name contains TEXT
//   --peers  also times OpenBLAS and oneDNN on one thread, where their shared libraries are installed
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/gemm_bench.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// `count` steps of 12 independent chains of multiply-adds that stay in registers; returns the flops done.
double MultiplyAddLoop(int64_t count, float* out) {
  constexpr int kChains = 12;
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sums[kChains];
  HWY_UNROLL(12)
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  const auto factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  for (int64_t step = 0; step < count; ++step) {
    HWY_UNROLL(12)
    for (int i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], factor, term);
  }
  auto total = sums[0];
  HWY_UNROLL(12)
  for (int i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
  hn::StoreU(total, d, out);
  return 2.0 * static_cast<double>(count) * kChains * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/ops/gemm.h"
#include "core/tensor/rng.h"
#include "nlohmann/json.hpp"
#include "tests/bench/timing.h"

namespace shardit {
namespace {

HWY_EXPORT(MultiplyAddLoop);

constexpr int kRuns = 40;

double PeakGflops() {
  float out[64];
  double flops = 0;
  const bench::Timing time =
      bench::Measure(1, kRuns, [&] { flops = HWY_DYNAMIC_DISPATCH(MultiplyAddLoop)(100'000, out); });
  return flops / time.least * 1e-9;
}

// Row-major single-precision products of the peers, C = op(A) op(B).
using CblasSgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc);
using DnnlSgemm = int (*)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

struct Peers {
  CblasSgemm openblas = nullptr;
  DnnlSgemm onednn = nullptr;

  static Peers Load() {
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    setenv("OMP_NUM_THREADS", "1", 1);
    Peers peers;
    if (void* library = dlopen("libopenblas.so.0", RTLD_NOW)) {
      peers.openblas = reinterpret_cast<CblasSgemm>(dlsym(library, "cblas_sgemm"));
      const auto core_name = reinterpret_cast<const char* (*)()>(dlsym(library, "openblas_get_corename"));
      if (core_name != nullptr) std::printf("OpenBLAS kernel: %s\n", core_name());
    }
    if (void* library = dlopen("libdnnl.so.2", RTLD_NOW)) {
      peers.onednn = reinterpret_cast<DnnlSgemm>(dlsym(library, "dnnl_sgemm"));
    }
    return peers;
  }
};

struct Shape {
  std::string name;
  GemmForm form;
  int64_t m, n, k;
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  bool column_sums = false;
};

// The products of one block: `rows` tokens of the micro-batch, width d, `batch` images.
void AddBlock(const std::string& model, int64_t rows, int64_t d, int64_t batch, std::vector<Shape>& shapes) {
  const auto add = [&](const std::string& layer, int64_t m, int64_t in, int64_t out, bool gelu) {
    shapes.push_back({model + " " + layer + " y", GemmForm::kNT, m, out, in, false,
                      gelu ? GemmEpilogue::kBiasGelu : GemmEpilogue::kBias});
    // The GELU before fc2 takes its gradient in fc2's dx.
    shapes.push_back({model + " " + layer + " dx", GemmForm::kNN, m, in, out, false,
                      layer == "fc2" ? GemmEpilogue::kGeluGrad : GemmEpilogue::kNone});
    shapes.push_back({model + " " + layer + " dw", GemmForm::kTN, out, in, m, true, GemmEpilogue::kNone, true});
  };
  add("qkv", rows, d, 3 * d, false);
  add("proj", rows, d, d, false);
  add("fc1", rows, d, 4 * d, true);
  add("fc2", rows, 4 * d, d, false);
  add("adaLN", batch, d, 6 * d, false);
}

struct Operands {
  explicit Operands(const Shape& shape) {
    Fill(shape.m * shape.k, 1, a);
    Fill(shape.n * shape.k, 2, b);
    Fill(shape.m * shape.n, 3, c);
    Fill(shape.m * shape.n, 4, aux);
    Fill(shape.n, 5, bias);
    Fill(shape.m, 6, sums);
  }
  void Fill(int64_t count, uint64_t stream, float*& out) {
    memory.push_back(std::make_unique<Workspace>(1));
    out = memory.back()->SharedArea<float>(count);
    FillUniform({1, RngPurpose::kTest, stream}, 0, count, out);
  }
  std::vector<std::unique_ptr<Workspace>> memory;  // huge pages, as the tensors of a run have
  float *a, *b, *c, *aux, *bias, *sums;
};

double Gflops(const Shape& shape, double seconds) {
  return 2e-9 * static_cast<double>(shape.m * shape.n * shape.k) / seconds;
}

double TimeOurs(const Shape& shape, Operands& x, int threads) {
  ThreadPool pool(threads);
  Workspace workspace(threads);
  CpuContext context{pool, workspace};
  GemmArgs args{.form = shape.form, .m = shape.m, .n = shape.n, .k = shape.k, .a = x.a};
  args.lda = shape.form == GemmForm::kTN ? shape.m : shape.k;
  args.b = x.b;
  args.ldb = shape.form == GemmForm::kNT ? shape.k : shape.n;
  args.c = x.c;
  args.ldc = shape.n;
  args.accumulate = shape.accumulate;
  args.epilogue = shape.epilogue;
  args.bias = x.bias;
  args.aux = x.aux;
  args.ldaux = shape.n;
  args.column_sums = shape.column_sums ? x.sums : nullptr;
  return Gflops(shape, bench::Measure(threads, kRuns, [&] { cpu::Gemm(args, context); }).least);
}

// The bare product: the peers have no epilogues.
double TimeOpenblas(const Shape& s, Operands& x, CblasSgemm sgemm) {
  const bool a_transposed = s.form == GemmForm::kTN, b_transposed = s.form == GemmForm::kNT;
  const int m = static_cast<int>(s.m), n = static_cast<int>(s.n), k = static_cast<int>(s.k);
  return Gflops(s, bench::Measure(1, kRuns, [&] {
                     sgemm(101, a_transposed ? 112 : 111, b_transposed ? 112 : 111, m, n, k, 1.0f, x.a,
                           a_transposed ? m : k, x.b, b_transposed ? k : n, s.accumulate ? 1.0f : 0.0f, x.c, n);
                   }).least);
}

double TimeOnednn(const Shape& s, Operands& x, DnnlSgemm sgemm) {
  const bool a_transposed = s.form == GemmForm::kTN, b_transposed = s.form == GemmForm::kNT;
  return Gflops(s, bench::Measure(1, kRuns, [&] {
                     sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', s.m, s.n, s.k, 1.0f, x.a,
                           a_transposed ? s.m : s.k, x.b, b_transposed ? s.k : s.n, s.accumulate ? 1.0f : 0.0f, x.c,
                           s.n);
                   }).least);
}

int Main(int argc, char** argv) {
  Peers peers;
  std::string json_path, only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--peers") == 0) peers = Peers::Load();
    if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) only = argv[++i];
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) json_path = argv[++i];
  }
  std::vector<Shape> shapes;
  AddBlock("S/2 b4", 1024, 384, 4, shapes);
  AddBlock("S/8 b32", 512, 384, 32, shapes);
  AddBlock("w192 b8", 2048, 192, 8, shapes);
  const double peak = PeakGflops();
  std::printf("peak of one core: %.1f GFLOP/s\n%-18s %5s %5s %5s %9s %6s %9s %6s", peak, "product", "m", "n", "k",
              "1 thread", "%peak", "2 threads", "ratio");
  std::printf(peers.openblas != nullptr || peers.onednn != nullptr ? " %9s %9s\n" : "\n", "OpenBLAS", "oneDNN");
  nlohmann::json rows = nlohmann::json::array();
  for (const Shape& shape : shapes) {
    if (shape.name.find(only) == std::string::npos) continue;
    Operands x(shape);
    const double one = TimeOurs(shape, x, 1), two = TimeOurs(shape, x, 2);
    std::printf("%-18s %5ld %5ld %5ld %9.1f %6.1f %9.1f %6.2f", shape.name.c_str(), shape.m, shape.n, shape.k, one,
                100 * one / peak, two, two / one);
    nlohmann::json row = {{"product", shape.name}, {"m", shape.m},    {"n", shape.n},  {"k", shape.k},
                          {"gflops_1", one},       {"gflops_2", two}, {"peak_1", peak}};
    if (peers.openblas != nullptr) row["openblas_1"] = TimeOpenblas(shape, x, peers.openblas);
    if (peers.onednn != nullptr) row["onednn_1"] = TimeOnednn(shape, x, peers.onednn);
    for (const char* peer : {"openblas_1", "onednn_1"}) {
      if (row.contains(peer)) std::printf(" %9.1f", row[peer].get<double>());
    }
    std::printf("\n");
    rows.push_back(row);
  }
  if (json_path.empty()) return 0;
  std::FILE* file = std::fopen(json_path.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "cannot write %s\n", json_path.c_str());
    return 74;
  }
  std::fprintf(file, "%s\n", rows.dump(2).c_str());
  std::fclose(file);
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) { return shardit::Main(argc, argv); }
#endif  // HWY_ONCE
