// The executor on threads-as-ranks, with a stage whose arithmetic is exact: every schedule gives every micro-batch the
// same values and gradients as a plain loop over the stages.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "parallel/comm/world.h"
#include "parallel/pipeline/executor.h"
#include "tests/parallel/pipeline_toys.h"

namespace shardit {
namespace {

constexpr int64_t kColumns = 5;

class ExecutorTest : public testing::TestWithParam<PipelineSpec> {};

std::vector<PipelineSpec> Specs() {
  std::vector<PipelineSpec> specs;
  for (const ScheduleKind kind : kScheduleKinds) {
    for (const int ranks : {1, 2, 3, 4}) {
      for (const int micro_batches : {1, 2, 5, 8}) {
        for (const int parts : {1, 2, 3}) {
          if (parts == 1 || kind == ScheduleKind::kInterleaved) specs.push_back({kind, ranks, micro_batches, parts});
        }
      }
    }
  }
  return specs;
}
std::string SpecName(const testing::TestParamInfo<PipelineSpec>& info) {
  return absl::StrCat(std::string(Name(info.param.kind)), "_p", info.param.ranks, "_m", info.param.micro_batches, "_v",
                      info.param.parts);
}
INSTANTIATE_TEST_SUITE_P(Schedules, ExecutorTest, testing::ValuesIn(Specs()), SpecName);

TEST_P(ExecutorTest, ValuesGradientsAndBytesAreExact) {
  const PipelineSpec spec = GetParam();
  std::vector<Results> of_rank(spec.ranks);
  RunThreadWorld(spec.ranks, [&](World& world) {
    RankContext context(1);
    PipelineExecutor executor(spec, world.comm(), context);
    for (int step = 0; step < 2; ++step) {  // the second step's messages meet no leftovers of the first
      ToyStage stage(spec, world.rank(), kColumns, context);
      executor.Run(stage);
      EXPECT_EQ(stage.passes_kept(), 0);
      of_rank[world.rank()] = std::move(stage.results);
    }
    EXPECT_EQ(context.allocator().stats().bytes_in_use, 0);
    ExpectPipelineBytes(spec, kColumns, world.comm(), 2);
  });
  Results all;
  for (Results& results : of_rank) all.Merge(std::move(results));
  EXPECT_EQ(all, Reference(spec.stages(), spec.micro_batches, kColumns));
}

TEST(Executor, ForwardOnly) {
  for (const PipelineSpec& spec :
       {PipelineSpec{ScheduleKind::kOneFOneB, 3, 2, 1}, PipelineSpec{ScheduleKind::kInterleaved, 3, 2, 2},
        PipelineSpec{ScheduleKind::kInterleaved, 1, 2, 2}}) {
    constexpr int kMicroBatches = 7;
    Results last;
    RunThreadWorld(spec.ranks, [&](World& world) {
      RankContext context(1);
      ToyStage stage(spec, world.rank(), kColumns, context);
      PipelineExecutor(spec, world.comm(), context).RunForward(stage, kMicroBatches);
      EXPECT_EQ(stage.passes_kept(), kMicroBatches * spec.parts);  // it keeps; nothing ran backward
      EXPECT_TRUE(stage.results.weight_grads.empty());
      if (world.rank() == spec.ranks - 1) last = std::move(stage.results);
    });
    EXPECT_EQ(last.losses, Reference(spec.stages(), kMicroBatches, kColumns).losses);
  }
}

TEST(Executor, TimelineHasEveryPassAndEveryMessage) {
  const PipelineSpec spec{ScheduleKind::kZeroBubbleH1, 3, 5, 1};
  RunThreadWorld(spec.ranks, [&](World& world) {
    RankContext context(1);
    context.timeline().Enable();
    context.timeline().BeginStep(4);
    ToyStage stage(spec, world.rank(), kColumns, context);
    PipelineExecutor(spec, world.comm(), context).Run(stage);
    std::map<SpanKind, int> count;
    int64_t bytes = 0;
    for (const Span& span : context.timeline().spans()) {
      ++count[span.kind];
      bytes += span.bytes;
      EXPECT_EQ(span.step, 4);
      EXPECT_LE(span.begin, span.end);
      EXPECT_TRUE(span.micro_batch >= 0 && span.micro_batch < 5 && span.part == 0);
    }
    EXPECT_EQ(count[SpanKind::kForward], 5);
    EXPECT_EQ(count[SpanKind::kBackward], 5);
    EXPECT_EQ(count[SpanKind::kWeights], 5);
    EXPECT_EQ(bytes, world.comm().counters().of(CollectiveKind::kSend).ring_bytes);
  });
}

// A first rank that is never slowed down, and a second one that does not move before the first is far ahead.
class RunningAhead final : public ToyStage {
 public:
  // Forwards that rank 0 may begin while rank 1 is in its first: their activations have been received, or leave.
  static constexpr int kAhead = PipelineExecutor::kReceivesAhead + PipelineExecutor::kSendsAhead + 2;

  RunningAhead(const PipelineSpec& spec, int rank, RankContext& context, std::atomic<int>* begun)
      : ToyStage(spec, rank, kColumns, context), begun_(begun) {}

  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override {
    ++begun_[Stage(part)];
    if (Stage(part) == 0) {
      EXPECT_LE(begun_[0], begun_[1] + kAhead);
    } else if (micro_batch == 0) {
      while (begun_[0] < kAhead) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the time to go too far, if it could
    }
    return ToyStage::Forward(part, micro_batch, std::move(inputs));
  }

 private:
  std::atomic<int>* begun_;
};

TEST(Executor, NoRankRunsFarAhead) {
  const PipelineSpec spec{ScheduleKind::kGpipe, 2, 30, 1};
  std::atomic<int> begun[2] = {0, 0};
  RunThreadWorld(2, [&](World& world) {
    RankContext context(1);
    RunningAhead stage(spec, world.rank(), context, begun);
    PipelineExecutor(spec, world.comm(), context).Run(stage);
  });
  EXPECT_EQ(begun[1], 30);
}

}  // namespace
}  // namespace shardit
