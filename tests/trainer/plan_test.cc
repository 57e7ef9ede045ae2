// Plans against runs: what the planner says of memory and bytes is what ranks on threads then use and send.
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "parallel/comm/world.h"
#include "trainer/plan/layout_search.h"
#include "trainer/plan/plan_report.h"
#include "trainer/plan/run_plan.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/step_comms.h"
#include "trainer/train/train_state.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

ClusterFigures Figures() {
  return {.name = "test",
          .devices_per_node = 8,
          .peak_flops = 1e12,
          .gemm_efficiency = 0.5,
          .attention_efficiency = 0.25,
          .memory_bytes_per_second = 1e11,
          .memory_bytes = int64_t{1} << 34,
          .kernel_seconds = 1e-6,
          .intra_node = {1e-5, 1e10},
          .inter_node = {2e-5, 1e9}};
}

struct Case {
  std::string name;
  Conditioning conditioning = Conditioning::kAdaLnZero;
  ParallelOptions parallel;
  int64_t micro_batch = 2;
  int64_t global_batch = 16;
  int64_t depth = 4;
};

RunOptions OptionsOf(const Case& test) {
  RunOptions options;
  options.model = {.depth = test.depth,
                   .width = 96,
                   .heads = 4,
                   .patch = 2,
                   .side = 8,
                   .classes = 10,
                   .conditioning = test.conditioning};
  options.diffusion.learn_sigma = options.model.learn_sigma;
  options.parallel = test.parallel;
  options.parallel.bucket_mib = 1;
  options.train.global_batch = test.global_batch;
  options.train.micro_batch = test.micro_batch;
  return options;
}

// What a rank that ran two steps used and sent in the second.
struct Used {
  AllocatorStats memory;
  AxisBytes sent;
};

Used RunRank(World& world, const RunOptions& options, const MeshShape& shape) {
  absl::StatusOr<Mesh> mesh = Mesh::Create(shape, world.comm());
  CHECK(mesh.ok());
  RankContext context(1);
  const StepComms comms(*mesh);
  const Sharding sharding = MakeSharding(options.model, options.parallel, false, shape, mesh->coords());
  TrainState state(options.model, sharding, context.allocator());
  state.Initialize(1);
  const Diffusion diffusion(options.diffusion);
  const Optimizer optimizer(options.optimizer, options.ema, 10);
  TrainStep step(context, state, diffusion, optimizer, comms,
                 {.global_batch = options.train.global_batch,
                  .micro_batch = options.train.micro_batch,
                  .recompute = options.parallel.recompute});
  const size_t images = static_cast<size_t>(options.train.global_batch / shape.dp);
  const std::vector<float> x(images * static_cast<size_t>(options.model.latent_elements()), 0.5f);
  const std::vector<int32_t> y(images, 3);
  const std::vector<int64_t> positions(images, 7);
  const Batch batch{.x = x, .y = y, .positions = positions};
  step.Run(batch);
  const StepComms::Bytes before = comms.BytesSent();
  step.Run(batch);
  const StepComms::Bytes after = comms.BytesSent();
  return {context.allocator().stats(), {after.dp - before.dp, after.tp - before.tp, after.pp - before.pp}};
}

// How long buffers of messages live depends on when these arrive: a plan takes the longest.
void ExpectBounds(int64_t planned, int64_t real) {
  EXPECT_GE(planned, real);
  EXPECT_LE(static_cast<double>(planned), 1.03 * static_cast<double>(real));
}

class PlannedLayout : public testing::TestWithParam<Case> {};

TEST_P(PlannedLayout, MemoryAndBytesAreThoseOfARun) {
  const RunOptions options = OptionsOf(GetParam());
  const absl::StatusOr<RunPlan> plan = PlanRun(options, Figures());
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<Used> used(static_cast<size_t>(plan->shape.ranks()));
  RunThreadWorld(plan->shape.ranks(),
                 [&](World& world) { used[static_cast<size_t>(world.rank())] = RunRank(world, options, plan->shape); });
  for (const RankPlan& rank : plan->ranks) {
    const Used& real = used[static_cast<size_t>(RankOf(plan->shape, rank.coords))];
    ExpectBounds(rank.memory.peak_bytes_in_use, real.memory.peak_bytes_in_use);
    EXPECT_EQ(rank.sent, real.sent) << "stage " << rank.coords.pp << ": dp " << rank.sent.dp << " " << real.sent.dp
                                    << ", tp " << rank.sent.tp << " " << real.sent.tp << ", pp " << rank.sent.pp << " "
                                    << real.sent.pp;
  }
  // No rank of the world needs more than the plan's fullest.
  int64_t most = 0;
  for (const Used& real : used) most = std::max(most, real.memory.peak_bytes_in_use);
  ExpectBounds(plan->largest().memory.peak_bytes_in_use, most);
}

constexpr Conditioning kZero = Conditioning::kAdaLnZero, kCross = Conditioning::kCrossAttention,
                       kContext = Conditioning::kInContext, kAdaLn = Conditioning::kAdaLn;

INSTANTIATE_TEST_SUITE_P(
    Layouts, PlannedLayout,
    testing::Values(
        Case{"one", kZero, {.dp = 1}}, Case{"dp2", kZero, {.dp = 2}},
        Case{"dp4_zero1", kAdaLn, {.dp = 4, .zero_stage = 1}},
        Case{"dp2_zero2", kZero, {.dp = 2, .zero_stage = 2}, 8, 16, 24},
        Case{"dp4_zero3", kZero, {.dp = 4, .zero_stage = 3}, 8, 32, 24},
        Case{"dp2_zero3_cross", kCross, {.dp = 2, .zero_stage = 3}, 8, 16, 24}, Case{"tp2", kZero, {.dp = 1, .tp = 2}},
        Case{"tp4_sp", kZero, {.dp = 1, .tp = 4, .sequence_parallel = true}},
        Case{"tp2_sp_context", kContext, {.dp = 1, .tp = 2, .sequence_parallel = true}},
        Case{"tp2_cross", kCross, {.dp = 1, .tp = 2}}, Case{"pp2", kZero, {.dp = 1, .pp = 2}},
        Case{"pp4_gpipe", kAdaLn, {.dp = 1, .pp = 4, .schedule = ScheduleKind::kGpipe}},
        Case{"pp2_interleaved", kZero, {.dp = 1, .pp = 2, .schedule = ScheduleKind::kInterleaved, .virtual_stages = 2}},
        Case{"pp2_zero_bubble", kZero, {.dp = 1, .pp = 2, .schedule = ScheduleKind::kZeroBubbleH1}},
        Case{"dp2_tp2_pp2_zero1", kZero, {.dp = 2, .tp = 2, .pp = 2, .zero_stage = 1, .sequence_parallel = true}},
        Case{"dp2_pp2_zero3_full",
             kContext,
             {.dp = 2, .pp = 2, .zero_stage = 3, .recompute = RecomputeMode::kFull},
             4,
             16,
             64},
        Case{"dp2_tp2_selective",
             kZero,
             {.dp = 2, .tp = 2, .zero_stage = 2, .recompute = RecomputeMode::kSelective},
             8,
             16,
             24},
        Case{"pp3_many", kCross, {.dp = 1, .pp = 3}, 1, 24, 5}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shardit
