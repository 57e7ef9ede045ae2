#include "trainer/extractor/classifier_extractor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/image_tensor.h"

namespace shardit {
namespace {

// The first channels of every pixel of a map [N, H, W, C].
std::vector<float> FirstChannels(const Tensor& map_NHWC, int64_t channels) {
  const std::vector<float> map = ToHostVector(map_NHWC);
  const int64_t pixels = map_NHWC.elements() / map_NHWC.dim(3);
  std::vector<float> first(static_cast<size_t>(pixels * channels));
  for (int64_t i = 0; i < pixels; ++i) {
    std::copy_n(map.data() + i * map_NHWC.dim(3), channels, first.data() + i * channels);
  }
  return first;
}

}  // namespace

ClassifierExtractor::ClassifierExtractor(std::unique_ptr<Classifier> network, std::string weights_sha256)
    : network_(std::move(network)) {
  const ClassifierConfig& config = network_->config();
  info_ = {.architecture = kClassifierArchitecture,
           .weights_sha256 = std::move(weights_sha256),
           .resize = absl::StrCat("none (", config.height, " x ", config.width, "), to [-1, 1]"),
           .feature_dim = config.feature_dim,
           .spatial_dim = config.spatial_dim(),
           .classes = config.classes};
}

absl::Status ClassifierExtractor::Extract(RankContext& context, std::span<const uint8_t> pixels,
                                          const ImageShape& shape, FeatureBatch* out) const {
  const ClassifierConfig& config = network_->config();
  const bool channels_fit = shape.channels == config.channels || shape.channels == 1;
  if (shape.count < 1 || shape.height != config.height || shape.width != config.width || !channels_fit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "extractor ", kClassifierArchitecture, ": ", shape.count, " images of ", shape.height, " x ", shape.width,
        " x ", shape.channels, ", expected the size it was trained on, ", config.height, " x ", config.width, " x ",
        config.channels, "; train one on this data with shardit extractor train"));
  }
  Tape tape(context, Tape::Mode::kInference);
  const Tensor x = ImagesToTensor(context, pixels, shape, config.channels, 127.5f, -1.0f);
  const Classifier::Output output = network_->Forward(tape, Var(x));
  out->features = ToHostVector(output.features.value());
  out->logits = ToHostVector(output.logits.value());
  out->spatial.clear();
  if (info_.spatial_dim > 0) out->spatial = FirstChannels(output.map_NHWC.value(), ClassifierConfig::kSpatialChannels);
  return absl::OkStatus();
}

}  // namespace shardit
