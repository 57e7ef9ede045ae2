// Shape suffixes: N batch, H rows, W columns of pixels, C channels.
#include "model/classifier.h"

#include <cmath>
#include <iterator>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/ops/conv2d.h"
#include "core/ops/pool2d.h"
#include "core/ops/relu.h"

namespace shardit {
namespace {

constexpr int64_t kMostSide = 4096;      // pixels
constexpr int64_t kMostChannels = 4096;  // of a layer
constexpr int64_t kMostClasses = 1 << 20;
constexpr Conv2dWindow kSame = {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1};
constexpr PoolWindow kHalf = {.kernel_h = 2, .kernel_w = 2, .stride = 2};
// Max-pools follow the first convolutions.
constexpr int kPools = 2;

// The same value in another shape. Its gradient is gathered in the shape that it had where it was made: the elements
// lie in the same order.
Var Reshaped(const Var& x, const Shape& shape) { return Var(x.value().Reshape(shape), x.producer(), x.output()); }

// The means over the cells of a grid on a square map, [N, grid grid C]; with grid 1 on any map.
Var CellMeans(Tape& tape, const Var& map_NHWC, int64_t grid) {
  if (grid == 1) return GlobalAveragePool(tape, map_NHWC);
  const int64_t side = map_NHWC.dim(1) / grid;
  const PoolWindow cells = {.kernel_h = side, .kernel_w = side, .stride = side};
  const Var means = Pool2d(tape, map_NHWC, PoolKind::kAverage, cells);
  return Reshaped(means, {means.dim(0), grid * grid * means.dim(3)});
}

// A linear layer as a convolution of images of one pixel: a row of the result does not depend on the other rows.
Var Dense(Tape& tape, const Var& x_NC, Parameter& weight, Parameter& bias) {
  const Var bias_O(bias);
  const Var y = Conv2d(tape, Reshaped(x_NC, {x_NC.dim(0), 1, 1, x_NC.dim(1)}), Var(weight), &bias_O, {});
  return Reshaped(y, {y.dim(0), y.dim(3)});
}

}  // namespace

absl::Status ClassifierConfig::Validate() const {
  const auto bad = [](const char* field, int64_t value, const char* expected) {
    return absl::InvalidArgumentError(absl::StrCat("classifier: ", field, " ", value, ", expected ", expected));
  };
  if (channels != 1 && channels != 3) return bad("channels", channels, "1 (grey) or 3 (RGB)");
  for (const int64_t side : {height, width}) {
    if (side < 4 || side > kMostSide || side % 4 != 0) return bad("image side", side, "4 to 4096, divisible by 4");
  }
  if (classes < 2 || classes > kMostClasses) return bad("classes", classes, "2 to 1048576");
  if (first_channels < 1 || first_channels > kMostChannels / 4) {
    return bad("first_channels", first_channels, "1 to 1024");
  }
  if (feature_dim < 1 || feature_dim > kMostChannels) return bad("feature_dim", feature_dim, "1 to 4096");
  return absl::OkStatus();
}

int64_t ClassifierConfig::grid() const {
  if (height != width) return 1;
  return std::gcd(height / 4, int64_t{4});
}

int64_t ClassifierConfig::spatial_dim() const {
  if (4 * first_channels < kSpatialChannels) return 0;
  const int64_t values = height / 4 * (width / 4) * kSpatialChannels;
  return values <= kMostSpatial ? values : 0;
}

Classifier::Classifier(const ClassifierConfig& config) : config_(config) {
  const int64_t w = config.first_channels;
  convs_[0] = AddLayer("conv0", 3, config.channels, w);
  convs_[1] = AddLayer("conv1", 3, w, 2 * w);
  convs_[2] = AddLayer("conv2", 3, 2 * w, 4 * w);
  convs_[3] = AddLayer("conv3", 3, 4 * w, 4 * w);
  features_ = AddLayer("features", 1, 4 * w * config.grid() * config.grid(), config.feature_dim);
  head_ = AddLayer("head", 1, config.feature_dim, config.classes);
}

// Weights from He et al., arXiv 1502.01852: of variance 2 / fan_in, for the ReLU that follows.
Classifier::Layer Classifier::AddLayer(const std::string& name, int64_t kernel, int64_t in, int64_t out) {
  const double deviation = std::sqrt(2.0 / static_cast<double>(kernel * kernel * in));
  return {&parameters_.Add(name + ".weight", {out, kernel, kernel, in}, Init::Normal(deviation)),
          &parameters_.Add(name + ".bias", {out}, Init::Zero())};
}

int64_t Classifier::FlopsPerImage() const {
  int64_t pixels = config_.height * config_.width;
  int64_t flops = 2 * (features_.weight->shape.elements() + head_.weight->shape.elements());
  for (int i = 0; i < static_cast<int>(std::size(convs_)); ++i) {
    flops += 2 * pixels * convs_[i].weight->shape.elements();
    if (i < kPools) pixels /= 4;
  }
  return flops;
}

Classifier::Output Classifier::Forward(Tape& tape, const Var& x_NHWC) const {
  Var x = x_NHWC;
  for (int i = 0; i < static_cast<int>(std::size(convs_)); ++i) {
    const Var bias_O(*convs_[i].bias);
    x = Relu(tape, Conv2d(tape, x, Var(*convs_[i].weight), &bias_O, kSame));
    if (i < kPools) x = Pool2d(tape, x, PoolKind::kMax, kHalf);
  }
  Output output{.map_NHWC = x};
  output.features = Relu(tape, Dense(tape, CellMeans(tape, x, config_.grid()), *features_.weight, *features_.bias));
  output.logits = Dense(tape, output.features, *head_.weight, *head_.bias);
  return output;
}

}  // namespace shardit
