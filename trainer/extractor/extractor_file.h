// Extractor files: a feature extractor's weights and identity in one safetensors file (docs/formats.md, "Extractors").
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/nn/parameter.h"
#include "core/ops/resize.h"
#include "core/tensor/rank_context.h"
#include "model/classifier.h"
#include "model/feature_extractor.h"

namespace shardit {

// Reads the extractor at `path` (made by `shardit extractor`) into memory of the context's device; the context outlives
// it. `resize` is how Inception's images become 299 x 299: kBilinear as PyTorch does it, kBilinearTf1 as the original
// TensorFlow graph does; a classifier does not resize. A file that is not an extractor, or not a whole one, is an error
// that names the file, the tensor or field, what was expected and what was found.
absl::StatusOr<std::unique_ptr<FeatureExtractor>> LoadExtractor(const std::string& path, RankContext& context,
                                                                ResizeMode resize);

// What `shardit extractor show` tells; reads the whole file.
struct ExtractorSummary {
  ExtractorInfo info;
  int64_t parameters = 0;  // elements
  int64_t flops_per_image = 0;
  std::map<std::string, std::string> metadata;  // as stored: escape before printing
};
absl::StatusOr<ExtractorSummary> DescribeExtractor(const std::string& path, RankContext& context);

// Architectures, as files and reports spell them.
inline constexpr char kInceptionArchitecture[] = "inception-v3-fid";
inline constexpr char kClassifierArchitecture[] = "classifier";
// Keys of the metadata.
inline constexpr char kArchitectureKey[] = "architecture";
inline constexpr char kSourceKey[] = "source_sha256";

// Write every parameter as F32, atomically, with what says how to read them back. `metadata` is added: where the
// weights come from.
absl::Status WriteInception(FileSystem& fs, const std::string& path, const ParameterList& parameters,
                            std::map<std::string, std::string> metadata);
absl::Status WriteClassifier(FileSystem& fs, const std::string& path, const Classifier& classifier,
                             std::map<std::string, std::string> metadata);

// Refuses numbers that are not finite, and variances below 0; names file and tensor.
absl::Status CheckWeights(const std::string& path, const std::string& name, std::span<const float> values);

// Parameters have a convolution's channels innermost, [out, kernel_h, kernel_w, in]; files hold it as PyTorch does,
// [out, in, kernel_h, kernel_w]. Other shapes are the same in both.
Shape FileShape(const Shape& parameter);
void FromFileOrder(const float* file, const Shape& parameter, float* out);
void ToFileOrder(const float* values, const Shape& parameter, float* file);

}  // namespace shardit
