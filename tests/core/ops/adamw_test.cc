#include "core/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/simd_targets.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

using Floats = std::vector<float>;

Floats Draw(int64_t count, uint64_t stream) {
  Floats values(static_cast<size_t>(count));
  FillNormal({.seed = 3, .stream = stream}, 0, count, values.data());
  return values;
}

struct State {
  explicit State(int64_t count)
      : param(Draw(count, 1)), grad(Draw(count, 2)), m(Draw(count, 3)), v(Draw(count, 4)), ema(Draw(count, 5)) {
    for (float& value : v) value *= value;
  }
  Floats param, grad, m, v, ema;
};

// Elements [begin, end) of a step in the middle of training.
AdamwEmaArgs Args(State& state, int64_t begin, int64_t end) {
  AdamwEmaArgs args;
  args.param = state.param.data() + begin;
  args.grad = state.grad.data() + begin;
  args.m = state.m.data() + begin;
  args.v = state.v.data() + begin;
  args.ema = state.ema.data() + begin;
  args.count = end - begin;
  args.lr = 3e-3;
  args.weight_decay = 0.1;
  args.bias_correction1 = 1 - std::pow(args.beta1, 7);
  args.bias_correction2 = 1 - std::pow(args.beta2, 7);
  args.grad_scale = 0.25;
  args.ema_decay = 0.99;
  return args;
}

void ExpectSame(const State& a, const State& b) {
  const auto same = [](const Floats& x, const Floats& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same(a.param, b.param));
  EXPECT_TRUE(same(a.m, b.m));
  EXPECT_TRUE(same(a.v, b.v));
  EXPECT_TRUE(same(a.ema, b.ema));
}

class AdamwEma : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

TEST_P(AdamwEma, FollowsTheFormula) {
  constexpr int64_t kCount = 1003;
  RankContext context(1);
  State got(kCount);
  const State before(kCount);
  const AdamwEmaArgs args = Args(got, 0, kCount);
  cpu::AdamwEma(args, context.cpu());
  for (size_t i = 0; i < kCount; ++i) {
    const double g = before.grad[i] * args.grad_scale;
    const double m = args.beta1 * before.m[i] + (1 - args.beta1) * g;
    const double v = args.beta2 * before.v[i] + (1 - args.beta2) * g * g;
    const double decayed = before.param[i] * (1 - args.lr * args.weight_decay);
    const double step =
        args.lr / args.bias_correction1 * m / (std::sqrt(v) / std::sqrt(args.bias_correction2) + args.eps);
    const double p = decayed - step;
    ASSERT_NEAR(got.m[i], m, 3e-7 * (std::abs(m) + std::abs(g)));
    ASSERT_NEAR(got.v[i], v, 3e-7 * v);
    ASSERT_NEAR(got.param[i], p, 2e-7 * std::abs(decayed) + 1e-6 * std::abs(step));
    ASSERT_NEAR(got.ema[i], args.ema_decay * before.ema[i] + (1 - args.ema_decay) * p, 3e-7 * (1 + std::abs(p)));
  }
}

TEST_P(AdamwEma, BitsDoNotDependOnThePartition) {
  constexpr int64_t kCount = 40009;
  RankContext one(1), three(3);
  State whole(kCount), threads(kCount), pieces(kCount);
  cpu::AdamwEma(Args(whole, 0, kCount), one.cpu());
  cpu::AdamwEma(Args(threads, 0, kCount), three.cpu());
  int64_t begin = 0;
  for (int64_t size = 1; begin < kCount; size = size * 3 + 1) {
    const int64_t end = std::min(kCount, begin + size);
    cpu::AdamwEma(Args(pieces, begin, end), one.cpu());
    begin = end;
  }
  ExpectSame(threads, whole);
  ExpectSame(pieces, whole);
}

TEST_P(AdamwEma, LeavesEmaOutWhenThereIsNone) {
  RankContext context(1);
  State with(37), without(37);
  cpu::AdamwEma(Args(with, 0, 37), context.cpu());
  AdamwEmaArgs args = Args(without, 0, 37);
  args.ema = nullptr;
  cpu::AdamwEma(args, context.cpu());
  EXPECT_EQ(without.ema, State(37).ema);
  without.ema = with.ema;
  ExpectSame(without, with);
}

// Of values[begin, end).
ExactSum Squares(const Floats& values, int64_t begin, int64_t end, RankContext& context) {
  ExactSum sum;
  cpu::SumOfSquares(values.data() + begin, end - begin, context.cpu(), sum);
  return sum;
}

TEST_P(AdamwEma, SumOfSquares) {
  RankContext one(1), two(2), three(3);
  for (int64_t count : {0, 1, 7, 255, 256, 257, 4097, 100003}) {
    const Floats values = Draw(count, 9);
    double want = 0;
    for (const float value : values) want += double{value} * double{value};
    const double got = Squares(values, 0, count, one).Round();
    EXPECT_NEAR(got, want, 1e-12 * want) << count;
    for (RankContext* context : {&two, &three}) EXPECT_EQ(Squares(values, 0, count, *context).Round(), got) << count;
  }
}

TEST_P(AdamwEma, SumOfSquaresDoesNotDependOnCutsBetweenBlocks) {
  RankContext context(2);
  constexpr int64_t kCount = 30011;
  const Floats values = Draw(kCount, 9);
  const double want = Squares(values, 0, kCount, context).Round();
  for (const int64_t blocks : {1, 3, 50}) {
    const int64_t step = blocks * cpu::kSquaresBlock;
    ExactSum sum;
    for (int64_t begin = (kCount - 1) / step * step; begin >= 0; begin -= step) {
      sum.Merge(Squares(values, begin, std::min(kCount, begin + step), context));
    }
    EXPECT_EQ(sum.Round(), want) << blocks;
  }
}

TEST_P(AdamwEma, SumOfSquaresIsTheSameOnEveryInstructionSet) {
  RankContext context(1);
  const Floats values = Draw(10007, 9);
  const double got = Squares(values, 0, 10007, context).Round();
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    EXPECT_EQ(Squares(values, 0, 10007, context).Round(), got) << hwy::TargetName(target);
  }
}

TEST_P(AdamwEma, SumOfSquaresSeesEveryNonFiniteValue) {
  RankContext context(2);
  constexpr int64_t kCount = 9001;
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {0, 255, 256, 9000}) {
      Floats values = Draw(kCount, 9);
      values[at] = bad;
      EXPECT_FALSE(Squares(values, 0, kCount, context).finite()) << bad << " at " << at;
    }
  }
  const Floats largest(kCount, std::numeric_limits<float>::max());
  EXPECT_TRUE(Squares(largest, 0, kCount, context).finite());
}

INSTANTIATE_TEST_SUITE_P(Targets, AdamwEma, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace shardit
