// ReLU, batch normalisation and concatenation of channels on the CPU.
#include <cmath>
#include <limits>

#include "core/ops/batch_norm.h"
#include "core/ops/concat_channels.h"
#include "core/ops/conv2d.h"
#include "core/ops/relu.h"
#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(Relu, ReluCases());
INSTANTIATE_OP_CASES(BatchNorm, BatchNormCases());
INSTANTIATE_OP_CASES(ConcatChannels, ConcatChannelsCases());

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Tensor Row(std::vector<float>& values) { return Tensor::Borrow(values.data(), {static_cast<int64_t>(values.size())}); }

TEST(Relu, KeepsNanAndStopsGradientsAtZero) {
  RankContext context(1);
  std::vector<float> values{kNan, kInfinity, -kInfinity, 0, -1, 2}, ones(values.size(), 1);
  Leaf x;
  x.value = Row(values);
  Tape tape(context);
  const Var y = Relu(tape, Var(x));
  const float* out = y.value().data();
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_EQ(std::vector<float>(out + 1, out + 6), std::vector<float>({kInfinity, 0, 0, 0, 2}));
  tape.Backward({{y, Row(ones)}});
  EXPECT_EQ(std::vector<float>(x.grad.data(), x.grad.data() + 6), std::vector<float>({0, 1, 0, 0, 0, 1}));
}

TEST(Relu, KeepsItsOutputOnly) {
  RankContext context(1);
  Leaf leaf;
  leaf.value = Tensor::Zeros(context.allocator(), {1, 5, 7, 1});
  const Var one(Tensor::Zeros(context.allocator(), {1, 1, 1, 1}));
  Tape tape(context);
  const Var x = Conv2d(tape, Var(leaf), one, nullptr, {});  // not a leaf's value, which would not be counted
  Relu(tape, x);
  EXPECT_EQ(tape.SavedBytes(), 5 * 7 * 4);
}

TEST(BatchNorm, KeepsNan) {
  RankContext context(1);
  Tape tape(context, Tape::Mode::kInference);
  std::vector<float> values(40, kNan), zeros(40, 0), ones(40, 1);
  const BatchNormStatistics statistics{.mean = Row(zeros), .variance = Row(ones)};
  for (const bool relu : {false, true}) {
    const Var y = BatchNormInference(tape, Var(Row(values)), statistics, relu);
    for (int64_t i = 0; i < 40; ++i) EXPECT_TRUE(std::isnan(y.value().data()[i])) << i;
  }
}

// A mean times gamma that fp32 would round to beta.
TEST(BatchNorm, TakesShiftsInDoublePrecision) {
  RankContext context(1);
  Tape tape(context, Tape::Mode::kInference);
  std::vector<float> values{0}, mean{1 + 0x1p-12f}, variance{1}, gamma{1 + 0x1p-12f}, beta{1 + 0x1p-11f};
  const BatchNormStatistics statistics{
      .mean = Row(mean), .variance = Row(variance), .gamma = Row(gamma), .beta = Row(beta), .epsilon = 0};
  EXPECT_EQ(BatchNormInference(tape, Var(Row(values)), statistics, false).value().data()[0], -0x1p-24f);
}

TEST(BatchNormDeathTest, RefusesGradientsAndOtherShapes) {
  RankContext context(1);
  std::vector<float> three(3, 1), two(2, 1);
  Leaf x;
  x.value = Row(three);
  Tape tape(context), inference(context, Tape::Mode::kInference);
  const BatchNormStatistics statistics{.mean = Row(three), .variance = Row(three)};
  BatchNormInference(inference, Var(x), statistics, false);
  EXPECT_DEATH(BatchNormInference(tape, Var(x), statistics, false), "\\[batch_norm\\] has no backward");
  EXPECT_DEATH(BatchNormInference(inference, Var(x), {.mean = Row(two), .variance = Row(three)}, false),
               "\\[batch_norm\\] mean \\[2\\] f32, expected f32 \\[3\\]");
  EXPECT_DEATH(BatchNormInference(inference, Var(x), {.mean = Row(three)}, false), "mean and variance are needed");
}

TEST(ConcatChannelsDeathTest, RefusesGradientsAndOtherShapes) {
  RankContext context(1);
  Leaf part;
  part.value = Tensor::Zeros(context.allocator(), {2, 3});
  const Var other(Tensor::Zeros(context.allocator(), {3, 3})), flat(Tensor::Zeros(context.allocator(), {6}));
  Tape tape(context), inference(context, Tape::Mode::kInference);
  EXPECT_EQ(ConcatChannels(inference, {Var(part), Var(part)}).shape(), Shape({2, 6}));
  EXPECT_DEATH(ConcatChannels(tape, {Var(part), Var(part)}), "\\[concat_channels\\] has no backward");
  EXPECT_DEATH(ConcatChannels(inference, {Var(part), other}), "part \\[3, 3\\] f32 beside \\[2, 3\\] f32");
  EXPECT_DEATH(ConcatChannels(inference, {Var(part), flat}), "part \\[6\\] f32 beside");
  EXPECT_DEATH(ConcatChannels(inference, {}), "no parts");
}

}  // namespace
}  // namespace shardit
