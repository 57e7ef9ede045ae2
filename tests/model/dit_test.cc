// The model on its own: invariants of the initial state, what recompute and deferred weight gradients save or move, and
// reproducibility. Parity with PyTorch is in tests/trainer/golden_test.cc.
#include "model/dit.h"

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "model/dit_variants.h"

namespace shardit {
namespace {

constexpr Conditioning kDesigns[] = {Conditioning::kAdaLnZero, Conditioning::kAdaLn, Conditioning::kCrossAttention,
                                     Conditioning::kInContext};

DitConfig SmallConfig(Conditioning conditioning) {
  DitConfig config;
  config.depth = 3;
  config.width = 48;
  config.heads = 4;
  config.patch = 2;
  config.channels = 3;
  config.side = 12;
  config.classes = 7;
  config.conditioning = conditioning;
  return config;
}

// A model with memory, inputs and one forward-backward.
class Rig {
 public:
  Rig(const DitConfig& config, int threads, int64_t batch = 2) : context_(threads), model_(config), batch_(batch) {
    model_.parameters().Allocate(context_.allocator());
    model_.parameters().Initialize(1);
    const int64_t side = config.side;
    input_.x_NCHW = Tensor::Empty(context_.allocator(), {batch, config.channels, side, side});
    input_.t_N = Tensor::Empty(context_.allocator(), {batch}, DType::kI64);
    input_.y_N = Tensor::Empty(context_.allocator(), {batch}, DType::kI32);
    FillNormal({.seed = 5}, 0, input_.x_NCHW.elements(), input_.x_NCHW.data());
    for (int64_t n = 0; n < batch; ++n) {
      input_.t_N.data<int64_t>()[n] = 37 + 400 * n;
      input_.y_N.data<int32_t>()[n] = static_cast<int32_t>(n % (config.classes + 1));
    }
  }

  // Replaces the zeros of the initial state, so that gradients reach every parameter.
  void Randomize() {
    for (const auto& parameter : model_.parameters().all()) {
      FillInitial(Init::Normal(0.05), 9, parameter->name, 0, parameter->shape.elements(), parameter->value.data());
    }
  }

  struct Run {
    std::vector<float> output;
    std::map<std::string, std::vector<float>> grads;
    std::map<std::string, int64_t, std::less<>> saved_bytes;
    int deferred = 0;
  };
  Run ForwardBackward(RecomputeMode recompute, bool defer) {
    for (const auto& parameter : model_.parameters().all()) parameter->grad_written = false;
    Run run;
    Tape tape(context_);
    const Var output = model_.Forward(tape, input_, {.recompute = recompute});
    run.output.assign(output.value().data(), output.value().data() + output.value().elements());
    run.saved_bytes = tape.SavedBytesByNode();
    Tensor seed = Tensor::Empty(context_.allocator(), output.shape());
    FillNormal({.seed = 6}, 0, seed.elements(), seed.data());
    tape.Backward({{output, seed}}, {.defer_weights = defer});
    if (defer) run.deferred = tape.RunDeferredWeights();
    for (const auto& parameter : model_.parameters().all()) {
      EXPECT_TRUE(parameter->grad_written) << parameter->name;
      run.grads[parameter->name].assign(parameter->grad.data(), parameter->grad.data() + parameter->grad.elements());
    }
    return run;
  }

  RankContext& context() { return context_; }
  Dit& model() { return model_; }
  int64_t batch() const { return batch_; }

 private:
  RankContext context_;
  Dit model_;
  DitInput input_;
  int64_t batch_;
};

bool AllZero(const std::vector<float>& values) {
  for (const float value : values) {
    if (value != 0.0f) return false;
  }
  return true;
}

TEST(DitTest, OutputIsZeroAndOnlyTheFinalLinearLearnsAtStepZero) {
  for (const Conditioning design : kDesigns) {
    SCOPED_TRACE(Name(design));
    Rig rig(SmallConfig(design), 1);
    const Rig::Run run = rig.ForwardBackward(RecomputeMode::kNone, false);
    EXPECT_TRUE(AllZero(run.output));
    for (const auto& [name, grad] : run.grads) {
      EXPECT_EQ(!AllZero(grad), name == "final_layer.linear.weight" || name == "final_layer.linear.bias") << name;
    }
  }
}

TEST(DitTest, ParameterCountsEqualTheClosedForm) {
  for (const Conditioning design : kDesigns) {
    const Dit model(SmallConfig(design));
    EXPECT_EQ(model.parameters().elements() + model.position_table().elements(), ParameterCount(model.config()))
        << Name(design);
  }
}

TEST(DitTest, EveryParameterGetsAGradient) {
  for (const Conditioning design : kDesigns) {
    SCOPED_TRACE(Name(design));
    Rig rig(SmallConfig(design), 2);
    rig.Randomize();
    for (const auto& [name, grad] : rig.ForwardBackward(RecomputeMode::kNone, false).grads) {
      EXPECT_FALSE(AllZero(grad)) << name;
    }
  }
}

TEST(DitTest, ResultsDoNotDependOnThreadsRecomputeOrDeferral) {
  for (const Conditioning design : kDesigns) {
    SCOPED_TRACE(Name(design));
    Rig reference_rig(SmallConfig(design), 1);
    reference_rig.Randomize();
    const Rig::Run reference = reference_rig.ForwardBackward(RecomputeMode::kNone, false);
    for (const int threads : {1, 2, 3}) {
      for (const RecomputeMode recompute : {RecomputeMode::kNone, RecomputeMode::kSelective, RecomputeMode::kFull}) {
        for (const bool defer : {false, true}) {
          Rig rig(SmallConfig(design), threads);
          rig.Randomize();
          const Rig::Run run = rig.ForwardBackward(recompute, defer);
          EXPECT_EQ(run.output, reference.output) << threads;
          for (const auto& [name, grad] : run.grads) {
            EXPECT_EQ(grad, reference.grads.at(name))
                << name << " threads " << threads << " recompute " << static_cast<int>(recompute) << " defer " << defer;
          }
        }
      }
    }
  }
}

int64_t Total(const std::map<std::string, int64_t, std::less<>>& bytes) {
  int64_t total = 0;
  for (const auto& [name, count] : bytes) total += count;
  return total;
}

// PERFORMANCE terms: a block of adaLN-Zero saves 18 D elements a token, and per token and head one log-sum-exp, and two
// statistics for each of its two norms.
TEST(DitTest, SavedBytesAreThePredictedOnes) {
  Rig rig(SmallConfig(Conditioning::kAdaLnZero), 1);
  const DitConfig& config = rig.model().config();
  const int64_t rows = rig.batch() * config.tokens(), d = config.width;
  constexpr int64_t kElement = sizeof(float);

  const auto none = rig.ForwardBackward(RecomputeMode::kNone, false).saved_bytes;
  const auto selective = rig.ForwardBackward(RecomputeMode::kSelective, false).saved_bytes;
  const auto full = rig.ForwardBackward(RecomputeMode::kFull, false).saved_bytes;
  EXPECT_EQ(Total(none) - Total(selective), config.depth * rows * 8 * d * kElement);
  EXPECT_EQ(none.at("mlp"), config.depth * rows * 9 * d * kElement);
  EXPECT_EQ(none.at("self_attention"), config.depth * rows * (4 * d + config.heads) * kElement);
  // Outside the blocks both keep the same, modulations included, but for the inputs, which a block's first reader
  // keeps.
  const int64_t block = rows * (18 * d + config.heads + 4);
  EXPECT_EQ(Total(none) - Total(full), config.depth * (block - rows * d) * kElement);
  EXPECT_EQ(full.count("mlp") + full.count("self_attention"), 0u);
}

TEST(DitTest, DeferralMovesEveryWeightGradientBehindTheWalk) {
  Rig rig(SmallConfig(Conditioning::kAdaLnZero), 1);
  // Linear layers: qkv, proj, adaLN and the MLP's node in each block; two in the timestep embedder, final adaLN and
  // linear; the patch projection.
  EXPECT_EQ(rig.ForwardBackward(RecomputeMode::kNone, true).deferred, 3 * 4 + 2 + 2 + 1);
}

TEST(DitTest, NothingIsAskedOfTheSystemAfterTheSecondStep) {
  for (const RecomputeMode recompute : {RecomputeMode::kNone, RecomputeMode::kFull}) {
    Rig rig(SmallConfig(Conditioning::kAdaLnZero), 2);
    rig.ForwardBackward(recompute, false);
    rig.ForwardBackward(recompute, false);
    const int64_t before = rig.context().allocator().stats().system_allocations;
    for (int step = 0; step < 3; ++step) rig.ForwardBackward(recompute, false);
    EXPECT_EQ(rig.context().allocator().stats().system_allocations, before);
  }
}

TEST(DitTest, PositionTableFollowsColumnThenRow) {
  const std::vector<float> table = SinCosPositionTable(8, 3);
  const float* token = table.data() + (1 * 3 + 2) * 8;  // row 1, column 2
  const double omega = 1.0 / 100.0;                     // 10000^(-1/2)
  EXPECT_FLOAT_EQ(token[0], static_cast<float>(std::sin(2.0)));
  EXPECT_FLOAT_EQ(token[1], static_cast<float>(std::sin(2.0 * omega)));
  EXPECT_FLOAT_EQ(token[2], static_cast<float>(std::cos(2.0)));
  EXPECT_FLOAT_EQ(token[4], static_cast<float>(std::sin(1.0)));
  EXPECT_FLOAT_EQ(token[7], static_cast<float>(std::cos(omega)));
}

}  // namespace
}  // namespace shardit
