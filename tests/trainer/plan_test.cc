// Plans against runs: what the planner says of memory and bytes is what ranks on threads then use and send.
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "parallel/comm/world.h"
#include "trainer/plan/layout_search.h"
#include "trainer/plan/memory_advice.h"
#include "trainer/plan/plan_report.h"
#include "trainer/plan/run_plan.h"
#include "trainer/run_config/check_layout.h"
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

// Of the machine that the runs are compared with: layouts of its CPUs, not of GPUs.
ClusterFigures CpuFigures() {
  ClusterFigures figures = Figures();
  figures.devices_are_cores = true;
  return figures;
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
  const absl::StatusOr<RunPlan> plan = PlanRun(options, CpuFigures());
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

void ExpectCountsEqualFormulas(const RunOptions& options, const std::string& what) {
  const absl::StatusOr<RunPlan> plan = PlanRun(options, Figures());
  ASSERT_TRUE(plan.ok());
  for (size_t i = 0; i < plan->ranks.size(); ++i) {
    const std::string where = absl::StrCat(what, " stage ", i);
    const AxisBytes& sent = plan->ranks[i].sent_data;
    EXPECT_EQ(static_cast<double>(sent.tp), plan->formulas[i].tp.bytes) << where;
    EXPECT_EQ(static_cast<double>(sent.pp), plan->formulas[i].pp.bytes) << where;
    // Buckets are cut at whole blocks, so the first rank's part may be half a block larger.
    EXPECT_NEAR(static_cast<double>(sent.dp), plan->formulas[i].dp.bytes, 0.005 * plan->formulas[i].dp.bytes) << where;
  }
}

// Axes that are cut evenly: exact counts equal the closed forms, for every design, ZeRO stage and type of activations.
TEST(ClosedForms, EqualWhatIsCounted) {
  for (const Conditioning conditioning : {kZero, kAdaLn, kCross, kContext}) {
    for (const int64_t zero : {0, 1, 2, 3}) {
      for (const bool cut : {false, true}) {
        for (const RecomputeMode recompute : {RecomputeMode::kNone, RecomputeMode::kSelective, RecomputeMode::kFull}) {
          Case test{"", conditioning, {.dp = 2, .tp = 2, .pp = 2, .zero_stage = zero, .sequence_parallel = cut}};
          test.parallel.recompute = recompute;
          const std::string where = absl::StrCat(std::string(Name(conditioning)), " zero ", zero, cut ? " sp" : "",
                                                 " recompute ", static_cast<int>(recompute));
          RunOptions options = OptionsOf(test);
          ExpectCountsEqualFormulas(options, where);
          options.train.precision = Precision::kBf16;
          ExpectCountsEqualFormulas(options, where + " BF16");
        }
      }
    }
  }
}

// A long step is planned from shorter ones; the counts are those of the whole, and the memory is a run's.
TEST(RankPlan, LongStepsAreExtrapolatedExactly) {
  for (const ScheduleKind schedule : kScheduleKinds) {
    for (const int64_t pp : {1, 2}) {
      SCOPED_TRACE(absl::StrCat(std::string(Name(schedule)), " pp ", pp));
      Case test{"", kZero, {.dp = 2, .pp = pp, .zero_stage = 2, .schedule = schedule}, 1, 60};  // 30 micro-batches
      if (schedule == ScheduleKind::kInterleaved) test.parallel.virtual_stages = 2;
      const RunOptions options = OptionsOf(test);
      const absl::StatusOr<RunPlan> plan = PlanRun(options, CpuFigures());
      ASSERT_TRUE(plan.ok());
      std::vector<Used> used(static_cast<size_t>(plan->shape.ranks()));
      RunThreadWorld(plan->shape.ranks(), [&](World& world) {
        used[static_cast<size_t>(world.rank())] = RunRank(world, options, plan->shape);
      });
      for (size_t i = 0; i < plan->ranks.size(); ++i) {
        const RankPlan& rank = plan->ranks[i];
        EXPECT_EQ(static_cast<double>(rank.sent_data.pp), plan->formulas[i].pp.bytes);
        EXPECT_EQ(rank.kernels.at("attention_fwd").calls, 30 * test.depth / pp);
        const Used& real = used[static_cast<size_t>(RankOf(plan->shape, rank.coords))];
        EXPECT_EQ(rank.sent, real.sent);
        ExpectBounds(rank.memory.peak_bytes_in_use, real.memory.peak_bytes_in_use);
        int64_t owners = 0;
        for (const int64_t bytes : rank.memory.peak_by_owner) owners += bytes;
        EXPECT_EQ(owners, rank.memory.peak_bytes_in_use);
      }
    }
  }
}

// The check before a start on a GPU looks at every stage that may be the fullest: here one of the middle.
TEST(MemoryAdvice, PlansTheFullestStage) {
  RunOptions options = OptionsOf({"", kZero, {.dp = 1, .pp = 4}, 1, 16, 10});
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    options.train.precision = precision;
    const absl::StatusOr<RunPlan> plan = PlanRun(options, Figures());
    ASSERT_TRUE(plan.ok());
    EXPECT_TRUE(plan->fullest > 0 && plan->fullest < 3) << plan->fullest;
    const AllocatorStats planned = PlannedGpuMemory(options, plan->shape);
    EXPECT_EQ(planned.peak_bytes_in_use, plan->largest().memory.peak_bytes_in_use);
    EXPECT_EQ(planned.peak_by_owner, plan->largest().memory.peak_by_owner);
  }
}

TEST(RunPlan, PartsOfTheStepAddUp) {
  for (const bool cores : {false, true}) {
    ClusterFigures figures = Figures();
    figures.devices_are_cores = cores;
    figures.devices_per_node = 2;  // fewer cores than ranks
    const absl::StatusOr<RunPlan> plan =
        PlanRun(OptionsOf({"", kZero, {.dp = 2, .tp = 2, .pp = 2, .zero_stage = 1}}), figures);
    ASSERT_TRUE(plan.ok());
    const StepEstimate& step = plan->step;
    EXPECT_NEAR(step.compute + step.tp_exposed + step.pp_bubble + step.dp_exposed + step.optimizer + step.shared_cores,
                step.total, 1e-9 * step.total);
    EXPECT_GT(step.compute, 0);
    EXPECT_GT(step.tp_exposed, 0);
    EXPECT_GT(step.pp_bubble, 0);
    EXPECT_EQ(step.shared_cores > 0, cores);
    EXPECT_DOUBLE_EQ(step.images_per_second * step.total, 16);
  }
}

TEST(PlanReport, JsonHasWhatScriptsRead) {
  const RunOptions options = OptionsOf({"", kZero, {.dp = 2, .tp = 2, .pp = 2, .zero_stage = 1}});
  const absl::StatusOr<RunPlan> plan = PlanRun(options, Figures());
  ASSERT_TRUE(plan.ok());
  const nlohmann::ordered_json json = PlanJson(*plan, Figures());
  EXPECT_EQ(json["parameters"], plan->parameters);
  EXPECT_EQ(json["world"], 8);
  EXPECT_EQ(json["layout"]["schedule"], "ONE_F_ONE_B");
  int64_t total = 0;
  for (const char* owner : {"weights", "gradients", "moments", "ema", "activations", "buffers"}) {
    total += json["bytes_per_rank"][owner].get<int64_t>();
  }
  EXPECT_EQ(json["bytes_per_rank"]["total"], total);
  EXPECT_EQ(json["peak_bytes"], total);
  for (const char* axis : {"dp", "tp", "pp"}) EXPECT_GT(json["bytes_sent"][axis].get<int64_t>(), 0) << axis;
  EXPECT_EQ(json["ranks"].size(), 2u);
  EXPECT_GT(json["step"]["step_ms"].get<double>(), 0);
  EXPECT_GT(json["step"]["mfu"].get<double>(), 0);
  EXPECT_NE(json["pipeline"]["chart"].get<std::string>().find("0a"), std::string::npos);  // the last stage
  EXPECT_NE(PlanText(*plan, Figures()).find("formula"), std::string::npos);
}

RunOptions SearchOptions() {
  RunOptions options = OptionsOf({"", kZero, {}, 1, 64, 8});
  options.model.width = 384;
  options.model.side = 32;
  return options;
}

TEST(LayoutSearch, BeatsEveryLayoutThatIsPlanned) {
  const absl::StatusOr<LayoutSearchResult> found = SearchLayouts(SearchOptions(), 8, Figures());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(found->best.fits);
  EXPECT_GT(found->estimated, 1000);
  const double best = found->best.step.total;
  for (const int64_t pp : {1, 2, 4}) {
    for (const int64_t tp : {1, 2, 4}) {
      if (pp * tp > 8) continue;
      for (const int64_t zero : {0, 1, 2, 3}) {
        for (const int64_t micro_batch : {1, 4}) {
          RunOptions options = SearchOptions();
          options.parallel.pp = pp;
          options.parallel.tp = tp;
          options.parallel.dp = 8 / pp / tp;
          options.parallel.zero_stage = zero;
          options.train.micro_batch = micro_batch;
          const absl::StatusOr<RunPlan> plan = PlanRun(options, Figures());
          ASSERT_TRUE(plan.ok());
          EXPECT_GE(1.01 * plan->step.total, best) << LayoutName(options.parallel, micro_batch);
        }
      }
    }
  }
}

// Memory decides: the smaller the device, the more the layout cuts; at last nothing fits, and the error says what needs
// least.
TEST(LayoutSearch, FitsTheMemoryOfTheDevice) {
  ClusterFigures figures = Figures();
  double last = 0;
  for (const int64_t mib : {4096, 512, 256}) {
    figures.memory_bytes = mib << 20;
    const absl::StatusOr<LayoutSearchResult> found = SearchLayouts(SearchOptions(), 8, figures);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_LE(found->best.largest().memory.peak_bytes_in_use, figures.memory_bytes);
    EXPECT_GE(1.01 * found->best.step.total, last);
    last = found->best.step.total;
  }
  figures.memory_bytes = 8 << 20;
  const absl::Status none = SearchLayouts(SearchOptions(), 8, figures).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(none.message().find("the smallest is dp"), absl::string_view::npos) << none;
}

// Whatever is found, also as the best of its kind, can be trained.
TEST(LayoutSearch, FindsWhatTrainingTakes) {
  RunOptions deterministic = SearchOptions();
  deterministic.train.deterministic = true;
  RunOptions few_tokens = SearchOptions();
  few_tokens.model.conditioning = kContext;
  few_tokens.model.side = 4;
  few_tokens.model.heads = 6;
  // Memory so small that layouts which training refuses would otherwise be the best of their kinds.
  for (const auto& [options, world] : {std::pair(deterministic, 8), std::pair(few_tokens, 6)}) {
    for (const int64_t mib : {215, 142, 62}) {
      ClusterFigures figures = Figures();
      figures.memory_bytes = mib << 20;
      const absl::StatusOr<LayoutSearchResult> found = SearchLayouts(options, world, figures);
      if (!found.ok()) continue;
      const auto check = [&](const ParallelOptions& parallel, int64_t micro_batch) {
        TrainOptions train = options.train;
        train.micro_batch = micro_batch;
        const absl::Status taken = CheckLayout(options.model, parallel, train);
        EXPECT_TRUE(taken.ok()) << mib << " MiB: " << LayoutName(parallel, micro_batch) << ": " << taken;
      };
      for (const RunPlan& plan : found->finalists) check(plan.options.parallel, plan.options.train.micro_batch);
      for (const LayoutFamily& family : found->families) {
        if (family.possible) check(family.best.parallel, family.best.micro_batch);
      }
    }
  }
}

TEST(LayoutSearch, SaysWhenNothingDivides) {
  RunOptions options = SearchOptions();
  options.train.global_batch = 3;
  const absl::Status none = SearchLayouts(options, 4096, Figures()).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kInvalidArgument) << none;
}

// A model of ten thousand million parameters on 4096 ranks.
TEST(LayoutSearch, LargeWorlds) {
  RunOptions options = SearchOptions();
  options.model = {.depth = 48, .width = 3456, .heads = 32, .patch = 2, .side = 64};
  options.train.global_batch = 4096;
  ClusterFigures figures = Figures();
  figures.memory_bytes = int64_t{80} << 30;
  const absl::StatusOr<LayoutSearchResult> found = SearchLayouts(options, 4096, figures);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_GT(found->best.parameters, 10'000'000'000);
  EXPECT_TRUE(found->best.fits);
  EXPECT_FALSE(found->families[0].best.fits);  // data parallel, ZeRO 0
  EXPECT_NE(found->families[0].why_not.find("does not fit"), std::string::npos);
}

}  // namespace
}  // namespace shardit
