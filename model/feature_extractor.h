// FeatureExtractor: a network that describes images by vectors, for the scores of a set of samples: the Frechet
// distance (Heusel et al., arXiv 1706.08500), its spatial form (Nash et al., arXiv 2103.03841), the inception score
// (Salimans et al., arXiv 1606.03498), precision and recall (Kynkaanniemi et al., arXiv 1904.06991).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/tensor/rank_context.h"

namespace shardit {

// `count` images, uint8 NHWC, row-major. Channels are 1 (grey) or 3 (RGB).
struct ImageShape {
  int64_t count = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;

  int64_t bytes() const { return count * height * width * channels; }
};

// What Extract gives, row-major fp32, one row an image. `spatial` is empty where the extractor has none.
struct FeatureBatch {
  std::vector<float> features;  // [count, feature_dim]
  std::vector<float> spatial;   // [count, spatial_dim]
  std::vector<float> logits;    // [count, classes], before the softmax
};

// What is printed beside every score, so that two numbers are compared only where they are of one kind.
struct ExtractorInfo {
  std::string architecture;    // "inception-v3-fid" or "classifier"
  std::string weights_sha256;  // of the extractor file, 64 lower-case hexadecimal digits
  std::string source_sha256;   // of the .pth file that it was converted from; empty: it was trained here
  std::string resize;          // how pixels become inputs: "bilinear 299 x 299, half-pixel centres, to [-1, 1]"
  int64_t feature_dim = 0;
  int64_t spatial_dim = 0;  // 0: no spatial features
  int64_t classes = 0;
  // Whether its Frechet distance may be called FID: Inception-v3 with the published weights, known by the hash of the
  // file that they came from.
  bool is_fid = false;
};

// Immutable once made: Extract may be called from several threads with a context each, on the device of the context
// that it was loaded with.
class FeatureExtractor {
 public:
  virtual ~FeatureExtractor() = default;

  virtual const ExtractorInfo& info() const = 0;

  // Describes the images; `out` is resized and overwritten. On the CPU an image's row has the same bits whatever the
  // other images of the call are, however many, and for any number of threads; on a GPU for calls of one count. A shape
  // that the extractor does not take (a classifier knows one size and number of channels) is an InvalidArgument; pixels
  // that do not fill the shape are our mistake (CHECK). Memory grows with the count: the caller chooses the batch.
  virtual absl::Status Extract(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape,
                               FeatureBatch* out) const = 0;

  // Floating-point operations for one image, two to a multiply-accumulate.
  virtual int64_t FlopsPerImage() const = 0;
};

}  // namespace shardit
