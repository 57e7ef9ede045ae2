// Inception-v3 (Szegedy et al., arXiv 1512.00567) in the variant whose features the Frechet inception distance is
// defined on: the network of TensorFlow's archive inception-2015-12-05, as pytorch-fid ports it. It differs from
// torchvision's in three places: average pools of the blocks A and C and of the first block E do not count padding; the
// last block E max-pools; the head has 1008 classes. Batch norms have epsilon 1e-3, convolutions no bias.
//
// Inference only. x is [N, 299, 299, 3], in [-1, 1]; other sides of at least 75 pixels work, too. What comes out:
//   features [N, 2048]  the mean over the pixels after the last block ("pool_3")
//   spatial  [N, H, W, 7]  the first 7 channels of the 1 x 1 branch of the block that TensorFlow's graph calls mixed_6
//                       and torchvision Mixed_6d: the graph's mixed, mixed_1, ..., mixed_10 are torchvision's Mixed_5b,
//                       5c, 5d, 6a, 6b, 6c, 6d, 6e, 7a, 7b, 7c, and mixed_6/conv:0 (after its ReLU) is the first
//                       branch. 17 x 17 x 7 = 2023 values of an image of 299 x 299: what sFID compares (arXiv
//                       2103.03841)
//   logits   [N, 1008]  features times the head's matrix, without its bias, as ADM's evaluator feeds the softmax of the
//                       inception score
//
// The network is a list of steps, each on the results of earlier ones, built once; parameters, operations and forward
// all come from it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd/tape.h"
#include "core/nn/parameter.h"
#include "core/ops/conv2d.h"
#include "core/ops/pool2d.h"

namespace shardit {

class InceptionV3 {
 public:
  static constexpr int64_t kSide = 299;  // pixels
  static constexpr int64_t kFeatures = 2048;
  static constexpr int64_t kSpatialChannels = 7;
  static constexpr int64_t kSpatial = 17 * 17 * kSpatialChannels;  // of an image of kSide
  static constexpr int64_t kClasses = 1008;

  // Parameters are meta until their list allocates them.
  InceptionV3();

  // By torchvision's names: <block>.<branch>.conv.weight [out, kernel_h, kernel_w, in] (channels innermost: files hold
  // [out, in, kernel_h, kernel_w]), .bn.{weight,bias,running_mean,running_var} [out], fc.weight [1008, 2048].
  ParameterList& parameters() { return parameters_; }
  const ParameterList& parameters() const { return parameters_; }

  // For an image of kSide, two to a multiply-accumulate.
  int64_t FlopsPerImage() const;

  struct Output {
    Tensor features;  // [N, 2048]
    Tensor spatial;   // [N, H, W, 7]
    Tensor logits;    // [N, 1008]
  };
  // Shown the result of each convolution (after batch norm and ReLU), pool and block by its name. For tests.
  using Watcher = std::function<void(std::string_view name, const Tensor& y)>;

  // Parameters must have memory where the context computes. An intermediate result is dropped after its last use.
  Output Forward(RankContext& context, const Tensor& x_NHWC, const Watcher& watch = nullptr) const;

 private:
  enum class StepKind { kConv, kPool, kConcat };
  struct Step {
    StepKind kind = StepKind::kConv;
    std::string name;
    std::vector<int> inputs;  // earlier steps; kInput: x
    int64_t channels = 0;     // of the result
    Conv2dWindow conv;
    PoolKind pool_kind = PoolKind::kMax;
    PoolWindow pool;
    // Of a convolution.
    Parameter* weight = nullptr;
    Parameter* gamma = nullptr;
    Parameter* beta = nullptr;
    Parameter* mean = nullptr;
    Parameter* variance = nullptr;
  };
  static constexpr int kInput = -1;

  // Each adds a step and returns its index.
  int Conv(const std::string& name, int x, int64_t out_channels, const Conv2dWindow& window);
  int Pool(const std::string& name, int x, PoolKind kind, const PoolWindow& window);
  int Concat(const std::string& name, std::vector<int> parts);
  // The block's pooled branch: 3 x 3 windows, then a 1 x 1 convolution.
  int PoolBranch(const std::string& block, int x, PoolKind kind, int64_t out_channels);
  int BlockA(const std::string& name, int x, int64_t pool_channels);
  int BlockB(const std::string& name, int x);
  int BlockC(const std::string& name, int x, int64_t inner_channels);
  int BlockD(const std::string& name, int x);
  int BlockE(const std::string& name, int x, PoolKind pool);

  Var Run(Tape& tape, const Step& step, const std::vector<Var>& values, const Var& x) const;

  ParameterList parameters_;
  std::vector<Step> steps_;
  std::vector<int> last_use_;  // by step: the last step that reads it
  int spatial_step_ = 0;       // whose channels are the spatial features
  Parameter* head_ = nullptr;
};

}  // namespace shardit
