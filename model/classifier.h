// A small convolutional classifier: an extractor of features that can be trained offline in a minute or two, for data
// that Inception was not made for or where its weights are not at hand. Frechet distances on its features are
// comparable with each other, for one file of weights, and with no published FID.
//
//   four 3 x 3 convolutions with bias and ReLU, W, 2W, 4W, 4W channels wide, the first two followed by 2 x 2
//   max-pools; the means over the cells of a grid of at most 4 x 4; a linear layer with ReLU (the features); a linear
//   layer (the logits)
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/autograd/tape.h"
#include "core/nn/parameter.h"

namespace shardit {

struct ClassifierConfig {
  int64_t channels = 1;  // of the images: 1 or 3
  int64_t height = 32;   // pixels; divisible by 4
  int64_t width = 32;
  int64_t classes = 10;
  int64_t first_channels = 16;  // W
  int64_t feature_dim = 128;

  // InvalidArgument with field, expectation and value. What passes can be sized in int64 without overflow.
  absl::Status Validate() const;

  // Cells of the grid along a side: the largest of 4, 2 and 1 that divides the last convolution's side; 1, the mean
  // over all pixels, for images that are not square.
  int64_t grid() const;

  // The last convolution's result is [height / 4, width / 4, 4W]; its first channels are the spatial features, as sFID
  // takes seven of Inception's, where that is small enough for a covariance matrix; else there are none.
  static constexpr int64_t kSpatialChannels = 7;
  static constexpr int64_t kMostSpatial = 2048;  // values
  int64_t spatial_dim() const;

  bool operator==(const ClassifierConfig&) const = default;
};

class Classifier {
 public:
  // The configuration is valid. Parameters are meta until their list allocates them.
  explicit Classifier(const ClassifierConfig& config);

  const ClassifierConfig& config() const { return config_; }
  // conv<i>.{weight,bias}, features.{weight,bias}, head.{weight,bias}; weights [out, kernel_h, kernel_w, in], channels
  // innermost, those of the linear layers [out, 1, 1, in].
  ParameterList& parameters() { return parameters_; }
  const ParameterList& parameters() const { return parameters_; }
  // Of forward, two to a multiply-accumulate.
  int64_t FlopsPerImage() const;

  struct Output {
    Var map_NHWC;  // the last convolution's result
    Var features;  // [N, feature_dim]
    Var logits;    // [N, classes]
  };
  // x [N, height, width, channels] in [-1, 1]. On the CPU an image's results do not depend on the others, to the bit.
  Output Forward(Tape& tape, const Var& x_NHWC) const;

 private:
  struct Layer {
    Parameter* weight = nullptr;
    Parameter* bias = nullptr;
  };
  Layer AddLayer(const std::string& name, int64_t kernel, int64_t in, int64_t out);

  const ClassifierConfig config_;
  ParameterList parameters_;
  Layer convs_[4];
  Layer features_;
  Layer head_;
};

}  // namespace shardit
