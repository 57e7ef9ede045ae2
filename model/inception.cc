// Shape suffixes: N batch, H rows, W columns of pixels, C channels.
#include "model/inception.h"

#include <algorithm>
#include <utility>

#include "core/ops/batch_norm.h"
#include "core/ops/concat_channels.h"
#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

constexpr double kBatchNormEpsilon = 1e-3;

// Convolutions by the shape of their windows. "Same" ones keep the image's size.
constexpr Conv2dWindow k1x1 = {};
constexpr Conv2dWindow k3x3 = {.kernel_h = 3, .kernel_w = 3};
constexpr Conv2dWindow k3x3Same = {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1};
constexpr Conv2dWindow k3x3Half = {.kernel_h = 3, .kernel_w = 3, .stride = 2};
constexpr Conv2dWindow k5x5Same = {.kernel_h = 5, .kernel_w = 5, .pad_h = 2, .pad_w = 2};
constexpr Conv2dWindow k1x7Same = {.kernel_w = 7, .pad_w = 3};
constexpr Conv2dWindow k7x1Same = {.kernel_h = 7, .pad_h = 3};
constexpr Conv2dWindow k1x3Same = {.kernel_w = 3, .pad_w = 1};
constexpr Conv2dWindow k3x1Same = {.kernel_h = 3, .pad_h = 1};
constexpr PoolWindow kPoolHalf = {.kernel_h = 3, .kernel_w = 3, .stride = 2};
constexpr PoolWindow kPoolSame = {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1};

// Dense.
Tensor FirstChannels(RankContext& context, const Tensor& x_NHWC, int64_t channels) {
  Tensor y = Tensor::Empty(context.allocator(), {x_NHWC.dim(0), x_NHWC.dim(1), x_NHWC.dim(2), channels});
  CopyRows({.source = x_NHWC.ref(),
            .source_stride = x_NHWC.dim(3),
            .destination = y.ref(),
            .destination_stride = channels,
            .rows = y.elements() / channels,
            .count = channels},
           context);
  return y;
}

}  // namespace

InceptionV3::InceptionV3() {
  int x = Conv("Conv2d_1a_3x3", kInput, 32, k3x3Half);
  x = Conv("Conv2d_2a_3x3", x, 32, k3x3);
  x = Conv("Conv2d_2b_3x3", x, 64, k3x3Same);
  x = Pool("maxpool1", x, PoolKind::kMax, kPoolHalf);
  x = Conv("Conv2d_3b_1x1", x, 80, k1x1);
  x = Conv("Conv2d_4a_3x3", x, 192, k3x3);
  x = Pool("maxpool2", x, PoolKind::kMax, kPoolHalf);
  x = BlockA("Mixed_5b", x, 32);
  x = BlockA("Mixed_5c", x, 64);
  x = BlockA("Mixed_5d", x, 64);
  x = BlockB("Mixed_6a", x);
  x = BlockC("Mixed_6b", x, 128);
  x = BlockC("Mixed_6c", x, 160);
  x = BlockC("Mixed_6d", x, 160);
  x = BlockC("Mixed_6e", x, 192);
  x = BlockD("Mixed_7a", x);
  x = BlockE("Mixed_7b", x, PoolKind::kAverageInside);
  x = BlockE("Mixed_7c", x, PoolKind::kMax);
  head_ = &parameters_.Add("fc.weight", {kClasses, kFeatures}, Init::Zero());
  spatial_step_ = static_cast<int>(
      std::find_if(steps_.begin(), steps_.end(), [](const Step& step) { return step.name == "Mixed_6d.branch1x1"; }) -
      steps_.begin());

  last_use_.assign(steps_.size(), 0);
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int input : steps_[i].inputs) {
      if (input != kInput) last_use_[static_cast<size_t>(input)] = static_cast<int>(i);
    }
  }
  last_use_[static_cast<size_t>(spatial_step_)] = last_use_[static_cast<size_t>(x)] = static_cast<int>(steps_.size());
}

int InceptionV3::Conv(const std::string& name, int x, int64_t out_channels, const Conv2dWindow& window) {
  const int64_t in_channels = x == kInput ? 3 : steps_[static_cast<size_t>(x)].channels;
  Step step{.kind = StepKind::kConv, .name = name, .inputs = {x}, .channels = out_channels, .conv = window};
  const Shape weight = {out_channels, window.kernel_h, window.kernel_w, in_channels};
  step.weight = &parameters_.Add(name + ".conv.weight", weight, Init::Zero());
  step.gamma = &parameters_.Add(name + ".bn.weight", {out_channels}, Init::One());
  step.beta = &parameters_.Add(name + ".bn.bias", {out_channels}, Init::Zero());
  step.mean = &parameters_.Add(name + ".bn.running_mean", {out_channels}, Init::Zero());
  step.variance = &parameters_.Add(name + ".bn.running_var", {out_channels}, Init::One());
  steps_.push_back(std::move(step));
  return static_cast<int>(steps_.size()) - 1;
}

int InceptionV3::Pool(const std::string& name, int x, PoolKind kind, const PoolWindow& window) {
  steps_.push_back({.kind = StepKind::kPool,
                    .name = name,
                    .inputs = {x},
                    .channels = steps_[static_cast<size_t>(x)].channels,
                    .pool_kind = kind,
                    .pool = window});
  return static_cast<int>(steps_.size()) - 1;
}

int InceptionV3::Concat(const std::string& name, std::vector<int> parts) {
  Step step{.kind = StepKind::kConcat, .name = name, .inputs = std::move(parts)};
  for (const int part : step.inputs) step.channels += steps_[static_cast<size_t>(part)].channels;
  steps_.push_back(std::move(step));
  return static_cast<int>(steps_.size()) - 1;
}

int InceptionV3::PoolBranch(const std::string& block, int x, PoolKind kind, int64_t out_channels) {
  return Conv(block + ".branch_pool", Pool(block + ".pool", x, kind, kPoolSame), out_channels, k1x1);
}

// Figure 5 of the paper.
int InceptionV3::BlockA(const std::string& name, int x, int64_t pool_channels) {
  const int one = Conv(name + ".branch1x1", x, 64, k1x1);
  int five = Conv(name + ".branch5x5_1", x, 48, k1x1);
  five = Conv(name + ".branch5x5_2", five, 64, k5x5Same);
  int three = Conv(name + ".branch3x3dbl_1", x, 64, k1x1);
  three = Conv(name + ".branch3x3dbl_2", three, 96, k3x3Same);
  three = Conv(name + ".branch3x3dbl_3", three, 96, k3x3Same);
  const int pooled = PoolBranch(name, x, PoolKind::kAverageInside, pool_channels);
  return Concat(name, {one, five, three, pooled});
}

// Halves the grid: figure 10.
int InceptionV3::BlockB(const std::string& name, int x) {
  const int single = Conv(name + ".branch3x3", x, 384, k3x3Half);
  int twice = Conv(name + ".branch3x3dbl_1", x, 64, k1x1);
  twice = Conv(name + ".branch3x3dbl_2", twice, 96, k3x3Same);
  twice = Conv(name + ".branch3x3dbl_3", twice, 96, k3x3Half);
  const int pooled = Pool(name + ".pool", x, PoolKind::kMax, kPoolHalf);
  return Concat(name, {single, twice, pooled});
}

// Windows of 7 x 7 as a row and a column: figure 6.
int InceptionV3::BlockC(const std::string& name, int x, int64_t inner_channels) {
  const int one = Conv(name + ".branch1x1", x, 192, k1x1);
  int single = Conv(name + ".branch7x7_1", x, inner_channels, k1x1);
  single = Conv(name + ".branch7x7_2", single, inner_channels, k1x7Same);
  single = Conv(name + ".branch7x7_3", single, 192, k7x1Same);
  int twice = Conv(name + ".branch7x7dbl_1", x, inner_channels, k1x1);
  twice = Conv(name + ".branch7x7dbl_2", twice, inner_channels, k7x1Same);
  twice = Conv(name + ".branch7x7dbl_3", twice, inner_channels, k1x7Same);
  twice = Conv(name + ".branch7x7dbl_4", twice, inner_channels, k7x1Same);
  twice = Conv(name + ".branch7x7dbl_5", twice, 192, k1x7Same);
  const int pooled = PoolBranch(name, x, PoolKind::kAverageInside, 192);
  return Concat(name, {one, single, twice, pooled});
}

// Halves the grid.
int InceptionV3::BlockD(const std::string& name, int x) {
  int three = Conv(name + ".branch3x3_1", x, 192, k1x1);
  three = Conv(name + ".branch3x3_2", three, 320, k3x3Half);
  int seven = Conv(name + ".branch7x7x3_1", x, 192, k1x1);
  seven = Conv(name + ".branch7x7x3_2", seven, 192, k1x7Same);
  seven = Conv(name + ".branch7x7x3_3", seven, 192, k7x1Same);
  seven = Conv(name + ".branch7x7x3_4", seven, 192, k3x3Half);
  const int pooled = Pool(name + ".pool", x, PoolKind::kMax, kPoolHalf);
  return Concat(name, {three, seven, pooled});
}

// Wide blocks on the coarsest grid: figure 7.
int InceptionV3::BlockE(const std::string& name, int x, PoolKind pool) {
  const int one = Conv(name + ".branch1x1", x, 320, k1x1);
  const int single = Conv(name + ".branch3x3_1", x, 384, k1x1);
  const int single_row = Conv(name + ".branch3x3_2a", single, 384, k1x3Same);
  const int single_column = Conv(name + ".branch3x3_2b", single, 384, k3x1Same);
  int twice = Conv(name + ".branch3x3dbl_1", x, 448, k1x1);
  twice = Conv(name + ".branch3x3dbl_2", twice, 384, k3x3Same);
  const int twice_row = Conv(name + ".branch3x3dbl_3a", twice, 384, k1x3Same);
  const int twice_column = Conv(name + ".branch3x3dbl_3b", twice, 384, k3x1Same);
  const int pooled = PoolBranch(name, x, pool, 192);
  return Concat(name, {one, single_row, single_column, twice_row, twice_column, pooled});
}

int64_t InceptionV3::FlopsPerImage() const {
  struct Grid {
    int64_t h = kSide, w = kSide;
  };
  std::vector<Grid> grids(steps_.size());
  int64_t flops = 2 * kFeatures * kClasses;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const Grid from = step.inputs[0] == kInput ? Grid() : grids[static_cast<size_t>(step.inputs[0])];
    const Conv2dWindow& conv = step.conv;
    const PoolWindow& pool = step.pool;
    switch (step.kind) {
      case StepKind::kConv:
        grids[i] = {PooledSize(from.h, conv.kernel_h, conv.stride, conv.pad_h),
                    PooledSize(from.w, conv.kernel_w, conv.stride, conv.pad_w)};
        flops += 2 * grids[i].h * grids[i].w * step.weight->shape.elements();
        break;
      case StepKind::kPool:
        grids[i] = {PooledSize(from.h, pool.kernel_h, pool.stride, pool.pad_h),
                    PooledSize(from.w, pool.kernel_w, pool.stride, pool.pad_w)};
        break;
      case StepKind::kConcat:
        grids[i] = from;
        break;
    }
  }
  return flops;
}

Var InceptionV3::Run(Tape& tape, const Step& step, const std::vector<Var>& values, const Var& x) const {
  const auto input = [&](int index) { return index == kInput ? x : values[static_cast<size_t>(index)]; };
  switch (step.kind) {
    case StepKind::kConv: {
      const Var y = Conv2d(tape, input(step.inputs[0]), Var(step.weight->value), nullptr, step.conv);
      const BatchNormStatistics statistics = {.mean = step.mean->value,
                                              .variance = step.variance->value,
                                              .gamma = step.gamma->value,
                                              .beta = step.beta->value,
                                              .epsilon = kBatchNormEpsilon};
      return BatchNormInference(tape, y, statistics, /*relu=*/true);
    }
    case StepKind::kPool:
      return Pool2d(tape, input(step.inputs[0]), step.pool_kind, step.pool);
    case StepKind::kConcat: {
      std::vector<Var> parts;
      for (const int part : step.inputs) parts.push_back(input(part));
      return ConcatChannels(tape, parts);
    }
  }
  return Var();
}

InceptionV3::Output InceptionV3::Forward(RankContext& context, const Tensor& x_NHWC, const Watcher& watch) const {
  Tape tape(context, Tape::Mode::kInference);
  const Var x(x_NHWC);
  std::vector<Var> values(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    values[i] = Run(tape, steps_[i], values, x);
    if (watch) watch(steps_[i].name, values[i].value());
    for (const int input : steps_[i].inputs) {
      if (input != kInput && last_use_[static_cast<size_t>(input)] == static_cast<int>(i)) {
        values[static_cast<size_t>(input)] = Var();
      }
    }
  }
  const Var features_NC = GlobalAveragePool(tape, values.back());
  const int64_t count = x_NHWC.dim(0);
  // The head as a convolution of images of one pixel: a row of its result does not depend on the other rows.
  const Var pixels_NHWC(features_NC.value().Reshape({count, 1, 1, kFeatures}));
  const Var logits_NHWC =
      Conv2d(tape, pixels_NHWC, Var(head_->value.Reshape({kClasses, 1, 1, kFeatures})), nullptr, k1x1);
  return {.features = features_NC.value(),
          .spatial = FirstChannels(context, values[static_cast<size_t>(spatial_step_)].value(), kSpatialChannels),
          .logits = logits_NHWC.value().Reshape({count, kClasses})};
}

}  // namespace shardit
