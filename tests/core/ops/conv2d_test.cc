// Convolution on the CPU: the op cases, and what they do not see.
#include "core/ops/conv2d.h"

#include <string>
#include <utility>

#include "core/base/simd_targets.h"
#include "hwy/highway.h"
#include "tests/core/op_case_cpu.h"
#include "tests/core/op_checks.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(Conv2d, Conv2dCases());
INSTANTIATE_OP_CASES(Conv2dTiles, Conv2dTileCases());

Floats Numbers(int64_t count, uint32_t seed) {
  Floats values;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525 + 1013904223;
    values.push_back(static_cast<float>(seed >> 8) * 0x1p-23f - 1);
  }
  return values;
}

struct Images {
  int64_t count, height, width, channels;
  Shape shape() const { return {count, height, width, channels}; }
};

struct Results {
  Floats y, dx;
};

// y and dx of images [first, first + count) of those that `seed` makes.
Results Convolve(const Images& images, int64_t out, const Conv2dWindow& window, int64_t first, int64_t count,
                 int threads) {
  RankContext context(threads);
  const Tensor all = Tensor::Empty(context.allocator(), images.shape());
  WriteFloats(all, Numbers(all.elements(), 1));
  Leaf x, weight;
  x.value = Tensor::Empty(context.allocator(), {count, images.height, images.width, images.channels});
  x.value.CopyFrom(all.Narrow(0, first, count));
  weight.value = Tensor::Empty(context.allocator(), {out, window.kernel_h, window.kernel_w, images.channels});
  WriteFloats(weight.value, Numbers(weight.value.elements(), 2));
  Tape tape(context);
  const Var y = Conv2d(tape, Var(x), Var(weight), nullptr, window);
  Shape seeds = y.shape();
  seeds[0] = images.count;
  const Tensor dy = Tensor::Empty(context.allocator(), seeds);
  WriteFloats(dy, Numbers(dy.elements(), 3));
  Results results{.y = ReadFloats(y.value()), .dx = {}};
  Tensor some = Tensor::Empty(context.allocator(), y.shape());
  some.CopyFrom(dy.Narrow(0, first, count));
  tape.Backward({{y, some}});
  results.dx = ReadFloats(x.grad);
  return results;
}

Floats Part(const Floats& all, int64_t parts, int64_t part) {
  const int64_t size = static_cast<int64_t>(all.size()) / parts;
  return Floats(all.begin() + part * size, all.begin() + (part + 1) * size);
}

// Few pixels to an image, so that products of one have few rows and products of all many; and tiles of 512 pixels that
// end within images.
TEST(Conv2d, AnImageDoesNotDependOnItsBatch) {
  const struct {
    Images images;
    int64_t out;
    Conv2dWindow window;
  } cases[] = {
      {{
           40,
           2,
           2,
           32,
       },
       32,
       {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1}},
      {{40, 1, 1, 64}, 48, {}},
      {{5, 13, 17, 128}, 8, {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1}},
      {{3, 49, 51, 128}, 4, {.kernel_h = 3, .kernel_w = 3, .stride = 2}},
  };
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const auto& [images, out, window] : cases) {
      const Results all = Convolve(images, out, window, 0, images.count, 2);
      for (const int64_t image : {int64_t{0}, int64_t{1}, images.count - 1}) {
        const std::string what = std::string(hwy::TargetName(target)) + ", image " + std::to_string(image) + " of " +
                                 images.shape().ToString();
        const Results alone = Convolve(images, out, window, image, 1, 1);
        ExpectSameBits({alone.y, alone.dx}, {Part(all.y, images.count, image), Part(all.dx, images.count, image)},
                       what);
      }
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

// A convolution of the given window, forward and backward, planned.
struct PlannedStep {
  PlannedStep(Device device, const Images& images, int64_t out, const Conv2dWindow& window)
      : context(RankContext::Planning(plan, device)) {
    Allocator& allocator = context.allocator();
    Leaf x, weight;
    for (Tensor* image : {&x.value, &x.grad}) *image = Tensor::Empty(allocator, images.shape());
    for (Tensor* each : {&weight.value, &weight.grad}) {
      *each = Tensor::Empty(allocator, {out, window.kernel_h, window.kernel_w, images.channels});
    }
    Tape tape(context);
    const Var y = Conv2d(tape, Var(x), Var(weight), nullptr, window);
    forward_scratch = allocator.stats().peak_bytes_in_use - allocator.stats().bytes_in_use;
    Tensor dy = Tensor::Empty(allocator, y.shape());
    const int64_t before = allocator.stats().bytes_in_use;
    allocator.ResetPeak();
    tape.Backward({{y, std::move(dy)}});
    backward_scratch = allocator.stats().peak_bytes_in_use - before;
  }

  CostRecorder plan;
  RankContext context;
  int64_t forward_scratch = 0, backward_scratch = 0;  // bytes
};

constexpr Conv2dWindow kThree{.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1};

TEST(Conv2d, PlansItsProducts) {
  constexpr int64_t kImages = 32, kSide = 64, kChannels = 64, kOut = 32;
  const PlannedStep step(Device::Cpu(), {kImages, kSide, kSide, kChannels}, kOut, kThree);
  const auto& totals = step.plan.totals();
  const double product = 2.0 * kImages * kSide * kSide * kOut * 9 * kChannels;
  EXPECT_EQ(totals.at("gemm_nt").flops, product);
  EXPECT_EQ(totals.at("gemm_tn").flops, product);
  EXPECT_GE(totals.at("gemm_nn").flops, product);
  EXPECT_LT(totals.at("gemm_nn").flops, 1.25 * product) << "windows over the cuts are computed twice";
  const double windows = 4.0 * kImages * kSide * kSide * 9 * kChannels;  // bytes
  EXPECT_GT(totals.at("im2col").bytes, 2 * windows) << "forward, and again for the weight";
  EXPECT_LT(totals.at("im2col").bytes, 2.5 * windows);
  EXPECT_GT(totals.at("col2im").bytes, windows);
  EXPECT_LT(totals.at("col2im").bytes, 1.25 * windows);
}

// Of images that have several tiles and of those that share one.
TEST(Conv2d, LaysOutATileAtATime) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  for (const auto& [device, most] : {std::pair(Device::Cpu(), 3 * kMiB), std::pair(Device::Cuda(0), 32 * kMiB)}) {
    for (const Images& images : {Images{16, 256, 256, 64}, Images{4096, 8, 8, 64}}) {
      const PlannedStep step(device, images, 32, kThree);
      EXPECT_GT(step.forward_scratch, most / 3) << device << " " << images.shape();
      EXPECT_LE(step.forward_scratch, most) << device << " " << images.shape();
      EXPECT_GT(step.backward_scratch, most / 3) << device << " " << images.shape();
      EXPECT_LE(step.backward_scratch, most) << device << " " << images.shape();
    }
  }
}

TEST(Conv2d, LaysOutNothingWhereTheImageIsTheMatrix) {
  const PlannedStep step(Device::Cpu(), {2, 8, 8, 64}, 32, {});
  EXPECT_FALSE(step.plan.totals().contains("im2col"));
  EXPECT_FALSE(step.plan.totals().contains("col2im"));
  EXPECT_EQ(step.forward_scratch, 0);
  EXPECT_EQ(step.backward_scratch, 0);
}

TEST(Conv2d, KeepsNoImageForAWeightThatIsFixed) {
  RankContext context(1);
  Leaf x;
  x.value = Tensor::Zeros(context.allocator(), {1, 4, 4, 2});
  const Var weight(Tensor::Zeros(context.allocator(), {2, 3, 3, 2}));
  Tape tape(context);
  const Conv2dWindow window{.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1};
  const Var y = Conv2d(tape, Var(x), weight, nullptr, window);
  Conv2d(tape, y, weight, nullptr, window);  // y is not a leaf's value, which would not be counted
  EXPECT_EQ(tape.size(), 2u);
  EXPECT_EQ(tape.SavedBytes(), 0);
}

TEST(Conv2dDeathTest, RefusesWhatDoesNotFit) {
  RankContext context(1);
  const auto zeros = [&](Shape shape) { return Var(Tensor::Zeros(context.allocator(), shape)); };
  const auto run = [&](Shape x, Shape weight, Shape bias, const Conv2dWindow& window) {
    Tape tape(context);
    const Var b = zeros(bias);
    Conv2d(tape, zeros(x), zeros(weight), &b, window);
  };
  const Conv2dWindow window{.kernel_h = 3, .kernel_w = 3};
  run({1, 4, 4, 2}, {5, 3, 3, 2}, {5}, window);
  EXPECT_DEATH(run({4, 4, 2}, {5, 3, 3, 2}, {5}, window), "\\[conv2d\\] x \\[4, 4, 2\\]");
  EXPECT_DEATH(run({0, 4, 4, 2}, {5, 3, 3, 2}, {5}, window), "\\[conv2d\\] x \\[0, 4, 4, 2\\]");
  EXPECT_DEATH(run({1, 4, 4, 2}, {5, 3, 2, 2}, {5}, window), "weight \\[5, 3, 2, 2\\].* window 3 x 3");
  EXPECT_DEATH(run({1, 4, 4, 2}, {5, 3, 3, 3}, {5}, window), "weight \\[5, 3, 3, 3\\]");
  EXPECT_DEATH(run({1, 4, 4, 2}, {5, 3, 3, 2}, {4}, window), "bias \\[4\\]");
  EXPECT_DEATH(run({1, 2, 4, 2}, {5, 3, 3, 2}, {5}, window), "x \\[1, 2, 4, 2\\], window 3 x 3, stride 1");
  EXPECT_DEATH(run({1, 4, 2, 2}, {5, 3, 3, 2}, {5}, window), "x \\[1, 4, 2, 2\\], window 3 x 3, stride 1");
}

TEST(Conv2dDeathTest, RefusesABiasThatIsTrainedAlone) {
  RankContext context(1);
  Tape tape(context);
  const Var x(Tensor::Zeros(context.allocator(), {1, 4, 4, 2})),
      weight(Tensor::Zeros(context.allocator(), {5, 1, 1, 2}));
  Leaf b;
  b.value = Tensor::Zeros(context.allocator(), {5});
  const Var bias(b);
  const Var y = Conv2d(tape, x, weight, &bias, {});
  EXPECT_DEATH(tape.Backward({{y, Tensor::Zeros(context.allocator(), y.shape())}}),
               "a bias is trained with its weight");
}

}  // namespace
}  // namespace shardit
