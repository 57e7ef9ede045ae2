// A training step that is planned: the same code without memory. Peaks equal those of the step that ran, operations
// equal the model's closed forms.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/ops/adamw.h"
#include "core/tensor/rank_context.h"
#include "model/diffusion_batch.h"
#include "model/dit.h"
#include "model/dit_variants.h"

namespace shardit {
namespace {

constexpr int64_t kImages = 3;

DitConfig Small(Conditioning conditioning, int64_t width = 48, int64_t depth = 2) {
  return {
      .depth = depth, .width = width, .heads = 3, .patch = 2, .side = 8, .classes = 10, .conditioning = conditioning};
}

// Everything of a model's size, with its owner, and steps over it.
class Trainer {
 public:
  Trainer(RankContext& context, const DitConfig& config)
      : context_(context),
        model_(config),
        diffusion_(DiffusionOptions{.learn_sigma = config.learn_sigma}),
        batch_(DiffusionBatch::Allocate(context.allocator(), config, kImages)) {
    const int64_t count = model_.parameters().elements();
    for (Tensor& tensor : state_) {
      const MemoryOwnerScope owner(context.allocator(), kOwners[&tensor - state_]);
      tensor = Tensor::Zeros(context.allocator(), {count});
    }
    int64_t at = 0;
    for (const auto& parameter : model_.parameters().all()) {
      const int64_t elements = parameter->shape.elements();
      parameter->value = state_[0].Narrow(0, at, elements).Reshape(parameter->shape);
      parameter->grad = state_[1].Narrow(0, at, elements).Reshape(parameter->shape);
      at += elements;
    }
    if (context.planning()) return;
    model_.parameters().Initialize(1);
    for (const Tensor& tensor : {batch_.x_0, batch_.noise, batch_.input.x_NCHW}) {
      std::fill_n(tensor.data(), tensor.elements(), 0.5f);
    }
    std::fill_n(batch_.input.t_N.data<int64_t>(), kImages, 7);
    std::fill_n(batch_.input.y_N.data<int32_t>(), kImages, 3);
  }

  void Step(RecomputeMode recompute) {
    for (const auto& parameter : model_.parameters().all()) parameter->grad_written = false;
    {
      Tape tape(context_);
      ForwardLossResult result = ForwardLoss(tape, model_, diffusion_, batch_, kImages, {.recompute = recompute});
      tape.Backward({{result.output, std::move(result.d_output)}});
    }
    const int64_t count = state_[0].elements();
    cpu::AdamwEma({.param = state_[0].data(),
                   .grad = state_[1].data(),
                   .m = state_[2].data(),
                   .v = state_[3].data(),
                   .ema = state_[4].data(),
                   .count = count,
                   .lr = 1e-4},
                  context_.cpu());
  }

 private:
  static constexpr MemoryOwner kOwners[] = {MemoryOwner::kWeights, MemoryOwner::kGradients, MemoryOwner::kMoments,
                                            MemoryOwner::kMoments, MemoryOwner::kEma};
  RankContext& context_;
  Dit model_;
  Diffusion diffusion_;
  DiffusionBatch batch_;
  Tensor state_[5];
};

AllocatorStats TwoSteps(RankContext& context, const DitConfig& config, RecomputeMode recompute) {
  Trainer trainer(context, config);
  for (int i = 0; i < 2; ++i) trainer.Step(recompute);
  return context.allocator().stats();
}

TEST(Planning, PeaksEqualTheRealOnes) {
  for (const Conditioning conditioning : kAllConditionings) {
    for (const RecomputeMode recompute : {RecomputeMode::kNone, RecomputeMode::kSelective, RecomputeMode::kFull}) {
      for (const int64_t width : {48, 96}) {
        const DitConfig config = Small(conditioning, width, width / 24);
        CostRecorder plan;
        RankContext planned = RankContext::Planning(plan);
        RankContext real(2);
        const AllocatorStats expected = TwoSteps(real, config, recompute), got = TwoSteps(planned, config, recompute);
        const std::string where = std::string(Name(conditioning)) + " width " + std::to_string(width) + " recompute " +
                                  std::to_string(static_cast<int>(recompute));
        EXPECT_EQ(got.peak_bytes_in_use, expected.peak_bytes_in_use) << where;
        EXPECT_EQ(got.peak_by_owner, expected.peak_by_owner) << where;
        EXPECT_EQ(got.bytes_in_use, expected.bytes_in_use) << where;
        EXPECT_EQ(got.bytes_reserved, expected.bytes_reserved) << where;
        EXPECT_EQ(got.system_allocations, expected.system_allocations) << where;
      }
    }
  }
}

TEST(Planning, OwnersMakeUpThePeak) {
  CostRecorder plan;
  RankContext context = RankContext::Planning(plan);
  const DitConfig config = Small(Conditioning::kAdaLnZero);
  const AllocatorStats stats = TwoSteps(context, config, RecomputeMode::kNone);
  const int64_t state = context.allocator().RoundedSize(4 * (ParameterCount(config) - PositionTableCount(config)));
  const auto of = [&](MemoryOwner owner) { return stats.peak_by_owner[static_cast<size_t>(owner)]; };
  EXPECT_EQ(of(MemoryOwner::kWeights), state);
  EXPECT_EQ(of(MemoryOwner::kGradients), state);
  EXPECT_EQ(of(MemoryOwner::kMoments), 2 * state);
  EXPECT_EQ(of(MemoryOwner::kEma), state);
  EXPECT_GT(of(MemoryOwner::kActivations), 0);
  int64_t total = 0;
  for (const int64_t bytes : stats.peak_by_owner) total += bytes;
  EXPECT_EQ(total, stats.peak_bytes_in_use);
  for (const int64_t bytes : context.allocator().stats().in_use_by_owner) EXPECT_EQ(bytes, 0);
}

// Products: 3 forwards, but for the input gradients of the two layers whose input is data; attention's backward makes
// its scores anew.
TEST(Planning, OperationsEqualTheClosedForms) {
  for (const Conditioning conditioning : kAllConditionings) {
    const DitConfig config = Small(conditioning, 96, 3);
    CostRecorder plan;
    RankContext context = RankContext::Planning(plan);
    Trainer trainer(context, config);
    plan.ClearTotals();
    trainer.Step(RecomputeMode::kNone);
    const auto flops = [&](std::string_view kernel) {
      const auto total = plan.totals().find(kernel);
      return total == plan.totals().end() ? 0.0 : total->second.flops;
    };
    constexpr double kFrequencies = 256;
    double forward = kImages * 2.0 * MacsForward(config);
    // The condition's two tokens leave after the final layer's product: token ranges then end where the model does.
    if (conditioning == Conditioning::kInContext) {
      forward += kImages * 2.0 * 2.0 * static_cast<double>(config.width * config.patch_out());
    }
    const double data_layers = kImages * 2.0 * static_cast<double>(config.width) *
                               (kFrequencies + static_cast<double>(config.tokens() * config.patch_in()));
    EXPECT_EQ(flops("gemm_nt") + flops("attention_fwd"), forward) << Name(conditioning);
    EXPECT_EQ(flops("gemm_tn"), flops("gemm_nt"));
    EXPECT_EQ(flops("gemm_nn"), flops("gemm_nt") - data_layers);
    EXPECT_EQ(flops("attention_bwd"), 2.5 * flops("attention_fwd"));
  }
}

TEST(Planning, TheClockAddsUpPrices) {
  CostRecorder plan([](const KernelCost& cost) { return cost.flops * 1e-9 + cost.bytes * 1e-10; });
  plan.Add({"gemm_nt", 2e9, 1e9});
  plan.Add({"add", 0, 1e10});
  EXPECT_DOUBLE_EQ(plan.seconds(), 2.0 + 0.1 + 1.0);
  EXPECT_DOUBLE_EQ(plan.totals().at("add").seconds, 1.0);
}

// Exits with 0 where a model of ten thousand million parameters can be planned in one GiB of addresses.
[[noreturn]] void PlanLargeModel() {
  const rlimit limit{1 << 30, 1 << 30};
  setrlimit(RLIMIT_AS, &limit);
  CostRecorder plan;
  RankContext context = RankContext::Planning(plan);
  const DitConfig config = {.depth = 48, .width = 3456, .heads = 27, .patch = 2, .side = 64};
  const AllocatorStats stats = TwoSteps(context, config, RecomputeMode::kNone);
  const bool large = ParameterCount(config) > 10'000'000'000 && stats.peak_bytes_in_use > int64_t{200} << 30;
  std::exit(large ? 0 : 1);
}

TEST(PlanningDeathTest, NothingIsAllocated) { EXPECT_EXIT(PlanLargeModel(), testing::ExitedWithCode(0), ""); }

}  // namespace
}  // namespace shardit
