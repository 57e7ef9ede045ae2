// Inception-v3 (FID variant) as an extractor: pixels to 299 x 299 in [-1, 1], then model/inception.h.
#pragma once

#include <memory>
#include <string>

#include "core/ops/resize.h"
#include "model/feature_extractor.h"
#include "model/inception.h"

namespace shardit {

// The file pt_inception-2015-12-05-6726825d.pth carries the first digits of its SHA-256 in its name; scores on other
// weights are not FID.
inline constexpr char kFidWeightsHash[] = "6726825d";

// kBilinear takes the steps of pytorch-fid, in fp32: p / 255, resize, 2 x - 1. kBilinearTf1 takes those of the original
// graph: resize p, (x - 128) / 128. A grey image is three equal channels.
class InceptionExtractor : public FeatureExtractor {
 public:
  // The network's parameters have their values. Hashes as in ExtractorInfo.
  InceptionExtractor(std::unique_ptr<InceptionV3> network, std::string weights_sha256, std::string source_sha256,
                     ResizeMode resize);

  const ExtractorInfo& info() const override { return info_; }
  absl::Status Extract(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape,
                       FeatureBatch* out) const override;
  int64_t FlopsPerImage() const override { return network_->FlopsPerImage(); }

 private:
  const std::unique_ptr<InceptionV3> network_;
  const ResizeMode resize_;
  ExtractorInfo info_;
};

}  // namespace shardit
