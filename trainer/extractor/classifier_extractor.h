// A classifier of our own as an extractor: pixels as they are, in [-1, 1], then model/classifier.h.
#pragma once

#include <memory>
#include <string>

#include "model/classifier.h"
#include "model/feature_extractor.h"

namespace shardit {

// A pixel p becomes p / 127.5 - 1: what `data import-idx` makes of it, and what the sampler turns into p again. Images
// have the size that the classifier was trained on; a grey image is three equal channels where it takes three.
class ClassifierExtractor : public FeatureExtractor {
 public:
  // The network's parameters have their values.
  ClassifierExtractor(std::unique_ptr<Classifier> network, std::string weights_sha256);

  const ExtractorInfo& info() const override { return info_; }
  absl::Status Extract(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape,
                       FeatureBatch* out) const override;
  int64_t FlopsPerImage() const override { return network_->FlopsPerImage(); }

 private:
  const std::unique_ptr<Classifier> network_;
  ExtractorInfo info_;
};

}  // namespace shardit
