#include "trainer/extractor/inception_extractor.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/image_tensor.h"

namespace shardit {

InceptionExtractor::InceptionExtractor(std::unique_ptr<InceptionV3> network, std::string weights_sha256,
                                       std::string source_sha256, ResizeMode resize)
    : network_(std::move(network)), resize_(resize) {
  info_ = {.architecture = kInceptionArchitecture,
           .weights_sha256 = std::move(weights_sha256),
           .source_sha256 = std::move(source_sha256),
           .resize = resize == ResizeMode::kBilinear ? "bilinear 299 x 299, half-pixel centres, to [-1, 1]"
                                                     : "bilinear 299 x 299, corners as in TensorFlow 1, to [-1, 1)",
           .feature_dim = InceptionV3::kFeatures,
           .spatial_dim = InceptionV3::kSpatial,
           .classes = InceptionV3::kClasses};
  info_.is_fid = absl::StartsWith(info_.source_sha256, kFidWeightsHash);
}

absl::Status InceptionExtractor::Extract(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape,
                                         FeatureBatch* out) const {
  if (shape.count < 1 || shape.height < 1 || shape.width < 1 || (shape.channels != 1 && shape.channels != 3)) {
    return absl::InvalidArgumentError(absl::StrCat("extractor ", kInceptionArchitecture, ": ", shape.count,
                                                   " images of ", shape.height, " x ", shape.width, " x ",
                                                   shape.channels, ", expected 1 or 3 channels and no empty image"));
  }
  const bool torch = resize_ == ResizeMode::kBilinear;
  const Tensor images = ImagesToTensor(context, pixels, shape, 3, torch ? 255.0f : 1.0f, 0.0f);
  const Tensor x = ResizeBilinear(context, images, InceptionV3::kSide, InceptionV3::kSide, resize_,
                                  torch ? 2.0f : 1.0f / 128.0f, -1.0f);
  const InceptionV3::Output output = network_->Forward(context, x);
  out->features = ToHostVector(output.features);
  out->spatial = ToHostVector(output.spatial);
  out->logits = ToHostVector(output.logits);
  return absl::OkStatus();
}

}  // namespace shardit
