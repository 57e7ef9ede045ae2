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

namespace shardit {
namespace {

const Shape kTokens{3, 5};
const Shape kCondition{3};
constexpr int64_t kBoundaryBytes = 4 * (15 + 3);

// y = factor(s) x + c, a row's c added to the row; c passes through. The loss is the sum of the last y.
float Factor(int stage) { return stage % 3 == 0 ? 2.0f : stage % 3 == 1 ? -1.0f : 1.0f; }
float Token(int micro_batch, int64_t i) { return static_cast<float>((micro_batch * 7 + i) % 11) - 5; }
float Condition(int micro_batch, int64_t row) { return static_cast<float>(micro_batch + 3 * row); }

// What a run leaves behind on a rank.
struct Results {
  std::map<int, float> losses;                        // by micro-batch
  std::map<std::pair<int, int>, float> weight_grads;  // by (global stage, micro-batch)
  std::map<int, std::vector<float>> condition_grads;  // by micro-batch, on the first stage
  friend bool operator==(const Results&, const Results&) = default;
  void Merge(Results other) {
    losses.merge(other.losses);
    weight_grads.merge(other.weight_grads);
    condition_grads.merge(other.condition_grads);
  }
};

// The gradient of factor(s) is the sum of dy x. One Forward, then one Backward, for each part and micro-batch.
class ToyStage : public PipelineStage {
 public:
  ToyStage(int rank, int ranks, int parts, RankContext& context)
      : rank_(rank), ranks_(ranks), parts_(parts), allocator_(context.allocator()) {}

  Results results;
  int passes_kept() const { return static_cast<int>(kept_.size()); }

  int parts() const override { return parts_; }
  std::vector<Shape> InputShapes(int part) const override {
    if (Stage(part) == 0) return {};
    return {kTokens, kCondition};
  }

  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override {
    if (Stage(part) == 0) {
      EXPECT_TRUE(inputs.empty());
      inputs = {Filled(kTokens, [&](int64_t i) { return Token(micro_batch, i); }),
                Filled(kCondition, [&](int64_t i) { return Condition(micro_batch, i); })};
    }
    const Tensor x = inputs[0], c = inputs[1];
    const Tensor y = Filled(kTokens, [&](int64_t i) { return Factor(Stage(part)) * At(x, i) + At(c, i / 5); });
    EXPECT_TRUE(kept_.emplace(std::pair{part, micro_batch}, Kept{x, {}}).second);
    if (Stage(part) < ranks_ * parts_ - 1) return {y, c};
    float loss = 0;
    for (int64_t i = 0; i < y.elements(); ++i) loss += At(y, i);
    results.losses[micro_batch] = loss;
    return {};
  }

  std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> grads, bool defer_weights) override {
    if (Stage(part) == ranks_ * parts_ - 1) {
      EXPECT_TRUE(grads.empty());
      grads = {Filled(kTokens, [](int64_t) { return 1.0f; }), Filled(kCondition, [](int64_t) { return 0.0f; })};
    }
    Kept& kept = kept_.at({part, micro_batch});
    kept.dy = grads[0];
    const Tensor dx = Filled(kTokens, [&](int64_t i) { return Factor(Stage(part)) * At(grads[0], i); });
    const Tensor dc = Filled(kCondition, [&](int64_t row) {
      float sum = At(grads[1], row);
      for (int64_t i = 0; i < 5; ++i) sum += At(grads[0], row * 5 + i);
      return sum;
    });
    if (!defer_weights) BackwardWeights(part, micro_batch);
    if (Stage(part) > 0) return {dx, dc};
    results.condition_grads[micro_batch] = {At(dc, 0), At(dc, 1), At(dc, 2)};
    return {};
  }

  void BackwardWeights(int part, int micro_batch) override {
    const auto kept = kept_.find({part, micro_batch});
    ASSERT_NE(kept, kept_.end());
    ASSERT_TRUE(kept->second.dy.defined());
    float grad = 0;
    for (int64_t i = 0; i < 15; ++i) grad += At(kept->second.dy, i) * At(kept->second.x, i);
    results.weight_grads[{Stage(part), micro_batch}] = grad;
    kept_.erase(kept);
  }

 protected:
  int Stage(int part) const { return part * ranks_ + rank_; }

 private:
  struct Kept {
    Tensor x, dy;
  };
  static float At(const Tensor& tensor, int64_t i) { return tensor.data()[i]; }
  Tensor Filled(const Shape& shape, absl::FunctionRef<float(int64_t)> value) {
    const Tensor tensor = Tensor::Empty(allocator_, shape);
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data()[i] = value(i);
    return tensor;
  }

  const int rank_, ranks_, parts_;
  Allocator& allocator_;
  std::map<std::pair<int, int>, Kept> kept_;
};

// The same without a pipeline, on plain numbers.
Results Reference(int stages, int micro_batches) {
  Results results;
  for (int mb = 0; mb < micro_batches; ++mb) {
    std::vector<std::vector<float>> x(stages + 1, std::vector<float>(15));
    for (int64_t i = 0; i < 15; ++i) {
      x[0][i] = Token(mb, i);
      for (int s = 0; s < stages; ++s) x[s + 1][i] = Factor(s) * x[s][i] + Condition(mb, i / 5);
      results.losses[mb] += x[stages][i];
    }
    float dy = 1, dc = 0;  // equal for all elements
    for (int s = stages - 1; s >= 0; --s) {
      for (int64_t i = 0; i < 15; ++i) results.weight_grads[{s, mb}] += dy * x[s][i];
      dc += 5 * dy;
      dy *= Factor(s);
    }
    results.condition_grads[mb] = {dc, dc, dc};
  }
  return results;
}

void ExpectBytes(const PipelineSpec& spec, const Communicator& pp, int64_t runs) {
  int64_t forward = 0, backward = 0, received = 0;  // boundaries that this rank sends, each way, and receives
  for (int to = 1; to < spec.stages() && spec.ranks > 1; ++to) {
    forward += (to - 1) % spec.ranks == pp.rank();
    backward += to % spec.ranks == pp.rank();
    received += ((to - 1) % spec.ranks == pp.rank()) + (to % spec.ranks == pp.rank());
  }
  const TrafficCounters counters = pp.counters();
  EXPECT_EQ(counters.of(CollectiveKind::kSend).ring_bytes,
            runs * spec.micro_batches * (forward + backward) * kBoundaryBytes);
  EXPECT_EQ(counters.of(CollectiveKind::kSend).calls, runs * spec.micro_batches * (forward + backward) * 2);
  EXPECT_EQ(counters.of(CollectiveKind::kRecv).payload_bytes, runs * spec.micro_batches * received * kBoundaryBytes);
  EXPECT_EQ(counters.TotalData().ring_bytes, counters.of(CollectiveKind::kSend).ring_bytes);
}

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
      ToyStage stage(world.rank(), spec.ranks, spec.parts, context);
      executor.Run(stage);
      EXPECT_EQ(stage.passes_kept(), 0);
      of_rank[world.rank()] = std::move(stage.results);
    }
    EXPECT_EQ(context.allocator().stats().bytes_in_use, 0);
    ExpectBytes(spec, world.comm(), 2);
  });
  Results all;
  for (Results& results : of_rank) all.Merge(std::move(results));
  EXPECT_EQ(all, Reference(spec.stages(), spec.micro_batches));
}

TEST(Executor, ForwardOnly) {
  for (const PipelineSpec& spec :
       {PipelineSpec{ScheduleKind::kOneFOneB, 3, 2, 1}, PipelineSpec{ScheduleKind::kInterleaved, 3, 2, 2},
        PipelineSpec{ScheduleKind::kInterleaved, 1, 2, 2}}) {
    constexpr int kMicroBatches = 7;
    Results last;
    RunThreadWorld(spec.ranks, [&](World& world) {
      RankContext context(1);
      ToyStage stage(world.rank(), spec.ranks, spec.parts, context);
      PipelineExecutor(spec, world.comm(), context).RunForward(stage, kMicroBatches);
      EXPECT_EQ(stage.passes_kept(), kMicroBatches * spec.parts);  // it keeps; nothing ran backward
      EXPECT_TRUE(stage.results.weight_grads.empty());
      if (world.rank() == spec.ranks - 1) last = std::move(stage.results);
    });
    EXPECT_EQ(last.losses, Reference(spec.stages(), kMicroBatches).losses);
  }
}

TEST(Executor, TimelineHasEveryPassAndEveryMessage) {
  const PipelineSpec spec{ScheduleKind::kZeroBubbleH1, 3, 5, 1};
  RunThreadWorld(spec.ranks, [&](World& world) {
    RankContext context(1);
    context.timeline().Enable();
    context.timeline().BeginStep(4);
    ToyStage stage(world.rank(), spec.ranks, spec.parts, context);
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

  RunningAhead(int rank, RankContext& context, std::atomic<int>* begun)
      : ToyStage(rank, 2, 1, context), begun_(begun) {}

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
  std::atomic<int> begun[2] = {0, 0};
  RunThreadWorld(2, [&](World& world) {
    RankContext context(1);
    RunningAhead stage(world.rank(), context, begun);
    PipelineExecutor({ScheduleKind::kGpipe, 2, 30, 1}, world.comm(), context).Run(stage);
  });
  EXPECT_EQ(begun[1], 30);
}

}  // namespace
}  // namespace shardit
