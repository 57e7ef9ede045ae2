// Extractor files: a feature extractor's weights and identity in one safetensors file (docs/formats.md).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "model/feature_extractor.h"

namespace shardit {

enum class ResizeMode;

// Reads the extractor at `path` (made by `shardit extractor`) into memory of the context's device; the context outlives
// it. `resize` is how Inception's images become 299 x 299: kBilinear as PyTorch does it, kBilinearTf1 as the original
// TensorFlow graph does; a classifier does not resize. A file that is not an extractor, or not a whole one, is an error
// that names the file, the tensor or field, what was expected and what was found.
absl::StatusOr<std::unique_ptr<FeatureExtractor>> LoadExtractor(const std::string& path, RankContext& context,
                                                                ResizeMode resize);

}  // namespace shardit
