// Attention at the shapes of DiTs, forward and backward, on one and two threads. GFLOP/s counts the matrix products
// alone: 4 T S K a head forward, 10 T S K backward (the scores are computed again). Usage: attention_bench [--json
// FILE]
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/ops/attention_kernel.h"
#include "core/tensor/rng.h"
#include "nlohmann/json.hpp"
#include "tests/bench/timing.h"

namespace shardit {
namespace {

constexpr int kRuns = 30;

struct Case {
  std::string name;
  int64_t batch, heads, head_dim, queries, keys;
};

// Buffers as the model has them: q, k and v interleaved in one [N, T, 3, H, K] (cross-attention uses its parts alike).
struct Operands {
  explicit Operands(const Case& c) {
    const int64_t d = c.heads * c.head_dim, tokens = std::max(c.queries, c.keys);
    shape = {c.batch, c.heads, c.head_dim, c.queries, c.keys, 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
    qkv.resize(static_cast<size_t>(c.batch * tokens * 3 * d));
    FillNormal({1, RngPurpose::kTest, 1}, 0, static_cast<int64_t>(qkv.size()), qkv.data());
    d_qkv.resize(qkv.size());
    out.resize(static_cast<size_t>(c.batch * c.queries * d));
    d_out.resize(out.size());
    FillNormal({1, RngPurpose::kTest, 2}, 0, static_cast<int64_t>(d_out.size()), d_out.data());
    lse.resize(static_cast<size_t>(c.batch * c.heads * c.queries));
    batch_stride = tokens * 3 * d;
    row_stride = 3 * d;
    width = d;
  }
  HeadsView Part(std::vector<float>& buffer, int64_t part) {
    return {buffer.data() + part * width, batch_stride, row_stride, shape.head_dim};
  }
  ConstHeadsView ConstPart(int64_t part) {
    return {qkv.data() + part * width, batch_stride, row_stride, shape.head_dim};
  }
  HeadsView Rows(std::vector<float>& buffer) { return {buffer.data(), shape.queries * width, width, shape.head_dim}; }

  AttentionShape shape;
  std::vector<float> qkv, d_qkv, out, d_out, lse;
  int64_t batch_stride, row_stride, width;
};

// GFLOP/s of {forward, backward}.
std::pair<double, double> Time(const Case& c, int threads) {
  Operands x(c);
  ThreadPool pool(threads);
  Workspace workspace(threads);
  CpuContext context{pool, workspace};
  const AttentionFwdArgs fwd{x.shape, x.ConstPart(0), x.ConstPart(1), x.ConstPart(2), x.Rows(x.out), x.lse.data()};
  const AttentionBwdArgs bwd{
      x.shape,         x.ConstPart(0), x.ConstPart(1),     x.ConstPart(2),     x.Rows(x.out),
      x.Rows(x.d_out), x.lse.data(),   x.Part(x.d_qkv, 0), x.Part(x.d_qkv, 1), x.Part(x.d_qkv, 2)};
  const double product = 1e-9 * 2 * static_cast<double>(c.batch * c.heads * c.queries * c.keys * c.head_dim);
  const double fwd_time = bench::Measure(threads, kRuns, [&] { cpu::AttentionFwd(fwd, context); }).least;
  const double bwd_time = bench::Measure(threads, kRuns, [&] { cpu::AttentionBwd(bwd, context); }).least;
  return {2 * product / fwd_time, 5 * product / bwd_time};
}

int Main(int argc, char** argv) {
  const std::vector<Case> cases = {{"S/2 b4", 4, 6, 64, 256, 256},     {"S/8 b32", 32, 6, 64, 16, 16},
                                   {"w192 b8", 8, 3, 64, 256, 256},    {"XL head b1", 1, 16, 72, 256, 256},
                                   {"in-context", 4, 6, 64, 258, 258}, {"cross", 4, 6, 64, 256, 2},
                                   {"T=1024", 1, 6, 64, 1024, 1024}};
  std::printf("%-12s %4s %4s %4s %5s %5s %10s %10s %10s %10s   GFLOP/s\n", "case", "N", "H", "K", "T", "S", "fwd 1",
              "bwd 1", "fwd 2", "bwd 2");
  nlohmann::json rows = nlohmann::json::array();
  for (const Case& c : cases) {
    const auto [fwd_1, bwd_1] = Time(c, 1);
    const auto [fwd_2, bwd_2] = Time(c, 2);
    std::printf("%-12s %4ld %4ld %4ld %5ld %5ld %10.1f %10.1f %10.1f %10.1f\n", c.name.c_str(), c.batch, c.heads,
                c.head_dim, c.queries, c.keys, fwd_1, bwd_1, fwd_2, bwd_2);
    rows.push_back({{"case", c.name}, {"fwd_1", fwd_1}, {"bwd_1", bwd_1}, {"fwd_2", fwd_2}, {"bwd_2", bwd_2}});
  }
  if (argc < 3 || std::strcmp(argv[1], "--json") != 0) return 0;
  std::FILE* file = std::fopen(argv[2], "w");
  if (file == nullptr) {
    std::fprintf(stderr, "cannot write %s\n", argv[2]);
    return 74;
  }
  std::fprintf(file, "%s\n", rows.dump(2).c_str());
  std::fclose(file);
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) { return shardit::Main(argc, argv); }
