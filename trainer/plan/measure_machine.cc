#include "trainer/plan/measure_machine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/ops/attention_kernel.h"
#include "core/ops/gemm.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/world.h"

namespace shardit {
namespace {

double SecondsOf(absl::FunctionRef<void()> body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The least of many runs: what the machine does when nothing disturbs it.
double LeastSeconds(absl::FunctionRef<void()> body) {
  constexpr double kBudget = 0.15;  // seconds
  double least = SecondsOf(body), spent = least;
  while (spent < kBudget) {
    const double seconds = SecondsOf(body);
    least = std::min(least, seconds);
    spent += seconds;
  }
  return least;
}

double GemmFlops(RankContext& context) {
  constexpr int64_t kRows = 1024, kWidth = 512;
  const Tensor a = Tensor::Zeros(context.allocator(), {kRows, kWidth});
  const Tensor b = Tensor::Zeros(context.allocator(), {kWidth, kWidth});
  const Tensor c = Tensor::Zeros(context.allocator(), {kRows, kWidth});
  GemmArgs gemm{.form = GemmForm::kNT, .m = kRows, .n = kWidth, .k = kWidth};
  gemm.a = a.data();
  gemm.b = b.data();
  gemm.c = c.data();
  gemm.lda = gemm.ldb = gemm.ldc = kWidth;
  const double seconds = LeastSeconds([&] { cpu::Gemm(gemm, context.cpu()); });
  return 2.0 * kRows * kWidth * kWidth / seconds;
}

double AttentionFlops(RankContext& context) {
  constexpr int64_t kBatch = 4, kHeads = 4, kTokens = 256, kDim = 64, kWidth = kHeads * kDim;
  const Tensor qkv = Tensor::Zeros(context.allocator(), {kBatch, kTokens, 3 * kWidth});
  const Tensor out = Tensor::Zeros(context.allocator(), {kBatch, kTokens, kWidth});
  AttentionFwdArgs args{
      .shape = {.batch = kBatch, .heads = kHeads, .head_dim = kDim, .queries = kTokens, .keys = kTokens}};
  const auto part = [&](int64_t index) {
    return ConstHeadsView{qkv.data() + index * kWidth, qkv.stride(0), qkv.stride(1), kDim};
  };
  args.q = part(0);
  args.k = part(1);
  args.v = part(2);
  args.out = {out.data(), out.stride(0), out.stride(1), kDim};
  const double seconds = LeastSeconds([&] { cpu::AttentionFwd(args, context.cpu()); });
  return 4.0 * kBatch * kHeads * kTokens * kTokens * kDim / seconds;
}

// Read and written, all cores together.
double CopyBytesPerSecond(RankContext& context) {
  constexpr int64_t kElements = 8 << 20;
  const Tensor from = Tensor::Zeros(context.allocator(), {kElements});
  const Tensor to = Tensor::Zeros(context.allocator(), {kElements});
  const double seconds = LeastSeconds([&] {
    context.pool().ParallelFor(kElements, 1 << 16, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to.data() + begin, from.data() + begin, static_cast<size_t>(end - begin) * sizeof(float));
    });
  });
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

LinkFigures MeasureLink() {
  LinkFigures link;
  RunThreadWorld(2, [&](World& world) {
    constexpr int64_t kCount = 1 << 20;
    std::vector<float> data(kCount, 1.0f);
    // Both ranks run it as often.
    const auto least = [&](int64_t count, int runs) {
      double seconds = 1e30;
      for (int i = 0; i < runs; ++i) {
        seconds = std::min(seconds, SecondsOf([&] {
                             world.comm().AllReduce(data.data(), data.data(), count, ReduceOp::kMax).Wait();
                           }));
      }
      return seconds;
    };
    const double small = least(1, 100), large = least(kCount, 10);
    if (world.rank() != 0) return;
    // A small all-reduce of two ranks is one exchange; a large one sends all it holds once.
    link.latency_seconds = small / 2;
    link.bytes_per_second = static_cast<double>(kCount * sizeof(float)) / std::max(1e-9, large - small);
  });
  return link;
}

}  // namespace

ClusterFigures MeasureMachine() {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  RankContext context(cores);
  ClusterFigures figures{.name = "this machine", .devices_are_cores = true, .devices_per_node = cores, .nodes = 1};
  figures.peak_flops = GemmFlops(context) / cores;
  figures.attention_efficiency = std::min(1.0, AttentionFlops(context) / cores / figures.peak_flops);
  figures.memory_bytes_per_second = CopyBytesPerSecond(context) / cores;
  figures.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / cores;
  figures.kernel_seconds = 2e-6;
  figures.intra_node = figures.inter_node = MeasureLink();
  return figures;
}

}  // namespace shardit
