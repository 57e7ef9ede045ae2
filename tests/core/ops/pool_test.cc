// Pooling: the cases, PyTorch's choice among equal maxima, and what is no number.
#include <cmath>
#include <limits>

#include "core/ops/pool2d.h"
#include "tests/core/host_copy.h"
#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/golden_arrays.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(Pool, PoolCases());

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

struct Pooled {
  Shape shape;
  std::vector<float> y;
  std::vector<float> dx;
};

// `dy` may be empty: all ones.
Pooled Pool(std::vector<float> x, Shape shape, PoolKind kind, const PoolWindow& window, std::vector<float> dy = {}) {
  RankContext context(1);
  Tape tape(context);
  Leaf leaf;
  leaf.value = Tensor::Borrow(x.data(), shape);
  const Var y = Pool2d(tape, Var(leaf), kind, window);
  Tensor grad = Tensor::Empty(context.allocator(), y.shape());
  if (dy.empty()) dy.assign(static_cast<size_t>(grad.elements()), 1);
  grad.FromHost(dy.data());
  tape.Backward({{y, grad}});
  return {y.shape(), ReadFloats(y.value()), ReadFloats(leaf.grad)};
}

TEST(Pool, IsPyTorchs) {
  const GoldenArray x = ReadGolden("pool.x");
  const std::pair<PoolKind, const char*> kinds[] = {
      {PoolKind::kMax, "max"}, {PoolKind::kAverage, "average"}, {PoolKind::kAverageInside, "average_inside"}};
  for (int i = 0; i < 4; ++i) {
    const std::string name = "pool_" + std::to_string(i);
    const std::vector<int32_t> w = ReadGoldenIntegers(name + ".window");
    for (const auto& [kind, word] : kinds) {
      const GoldenArray y = ReadGolden(name + "." + word + ".y"), dy = ReadGolden(name + "." + word + ".dy");
      const GoldenArray dx = ReadGolden(name + "." + word + ".dx");
      const PoolWindow window{.kernel_h = w[0], .kernel_w = w[1], .stride = w[2], .pad_h = w[3], .pad_w = w[4]};
      const Pooled got = Pool(x.values, x.shape, kind, window, dy.values);
      EXPECT_EQ(got.shape, y.shape) << name << word;
      ASSERT_EQ(got.y.size(), y.values.size()) << name << word;
      for (size_t k = 0; k < got.y.size(); ++k) EXPECT_NEAR(got.y[k], y.values[k], 1e-6) << name << word << " " << k;
      ASSERT_EQ(got.dx.size(), dx.values.size()) << name << word;
      for (size_t k = 0; k < got.dx.size(); ++k) EXPECT_NEAR(got.dx[k], dx.values[k], 1e-5) << name << word << " " << k;
    }
  }
}

TEST(Pool, NanAndInfinityPass) {
  const PoolWindow pair{.kernel_h = 1, .kernel_w = 2, .stride = 2};
  const std::vector<float> x{1, kNan, kNan, 1, -kInfinity, -kInfinity, kNan, kInfinity, -kInfinity, -3};
  const Pooled got = Pool(x, {1, 1, 10, 1}, PoolKind::kMax, pair);
  EXPECT_TRUE(std::isnan(got.y[0]));
  EXPECT_TRUE(std::isnan(got.y[1]));
  EXPECT_EQ(got.y[2], -kInfinity);
  EXPECT_TRUE(std::isnan(got.y[3]));
  EXPECT_EQ(got.y[4], -3);
  EXPECT_EQ(got.dx, (std::vector<float>{0, 1, 1, 0, 1, 0, 1, 0, 0, 1}));
}

// Zeros around negative images must not win.
TEST(Pool, PaddingIsNoMaximum) {
  const PoolWindow window{.kernel_h = 3, .kernel_w = 3, .stride = 1, .pad_h = 1, .pad_w = 1};
  const Pooled got = Pool({-5, -4, -3, -2}, {1, 2, 2, 1}, PoolKind::kMax, window);
  EXPECT_EQ(got.y, std::vector<float>(4, -2));
  EXPECT_EQ(got.dx, (std::vector<float>{0, 0, 0, 4}));
}

// An average keeps nothing for backward, a maximum 4 bytes an element of y.
TEST(Pool, SavesNoMoreThanItSays) {
  RankContext context(1);
  for (const PoolKind kind : {PoolKind::kMax, PoolKind::kAverage}) {
    Tape tape(context);
    Leaf leaf;
    leaf.value = Tensor::Zeros(context.allocator(), {2, 6, 6, 3});
    Pool2d(tape, Var(leaf), kind, {.kernel_h = 2, .kernel_w = 2, .stride = 2});
    const int64_t wanted = kind == PoolKind::kMax ? 4 * 2 * 3 * 3 * 3 : 0;
    EXPECT_GE(tape.SavedBytes(), wanted);
    EXPECT_LT(tape.SavedBytes(), wanted + 64);  // rounded up to what is allocated at once
  }
}

TEST(Pool, NoImagesAreAllowed) {
  RankContext context(1);
  Tape tape(context, Tape::Mode::kInference);
  const Var none(Tensor::Empty(context.allocator(), {0, 4, 4, 3}));
  EXPECT_EQ(Pool2d(tape, none, PoolKind::kMax, {.kernel_h = 2, .kernel_w = 2, .stride = 2}).shape(),
            Shape({0, 2, 2, 3}));
  EXPECT_EQ(GlobalAveragePool(tape, none).shape(), Shape({0, 3}));
}

TEST(PoolDeathTest, RefusesWindowsThatDoNotFit) {
  RankContext context(1);
  Tape tape(context);
  const Var x(Tensor::Zeros(context.allocator(), {1, 4, 4, 2}));
  EXPECT_DEATH(Pool2d(tape, x, PoolKind::kMax, {.kernel_h = 2, .kernel_w = 5}), "kernel 5, .* over 4 pixels");
  EXPECT_DEATH(Pool2d(tape, x, PoolKind::kMax, {.kernel_h = 2, .kernel_w = 2, .pad_h = 2}), "padding 2");
  EXPECT_DEATH(Pool2d(tape, x, PoolKind::kMax, {.stride = 0}), "stride 0");
}

}  // namespace
}  // namespace shardit
