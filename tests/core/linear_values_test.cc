#include <vector>

#include "core/ops/linear.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

constexpr int64_t kImages = 3, kIn = 20, kOut = 36, kLayers = 4;

Tensor Random(RankContext& context, Shape shape, uint64_t stream) {
  Tensor tensor = Tensor::Empty(context.allocator(), shape);
  FillNormal({.stream = stream}, 0, tensor.elements(), tensor.data());
  return tensor;
}

// The layers' weights and biases as a flat range holds them, `gap` further elements behind each layer but the first.
struct Layers {
  Layers(RankContext& context, int64_t gap) {
    const int64_t each = kOut * kIn + kOut;
    const Tensor flat = Random(context, {kLayers * (each + gap)}, 1);
    for (int64_t i = 0, at = 0; i < kLayers; at += each + (i > 0 ? gap : 0), ++i) {
      weights.push_back(flat.Narrow(0, at, kOut * kIn).Reshape({kOut, kIn}));
      biases.push_back(flat.Narrow(0, at + kOut * kIn, kOut));
    }
  }
  std::vector<Tensor> weights, biases;
};

TEST(LinearValuesTest, AreThoseOfEachLayerByItself) {
  RankContext context(2);
  const Tensor x = Random(context, {kImages, kIn}, 2);
  for (const int64_t gap : {0, 8}) {  // one batched product, and one a layer
    const Layers layers(context, gap);
    const std::vector<Tensor> values = LinearValues(context, x, layers.weights, layers.biases);
    ASSERT_EQ(values.size(), static_cast<size_t>(kLayers));
    for (size_t i = 0; i < values.size(); ++i) {
      Tape tape(context, Tape::Mode::kInference);
      const Tensor expected = Linear(tape, Var(x), Var(layers.weights[i]), Var(layers.biases[i])).value();
      ASSERT_EQ(values[i].shape(), expected.shape());
      for (int64_t k = 0; k < expected.elements(); ++k) {
        ASSERT_EQ(values[i].data()[k], expected.data()[k]) << "layer " << i << ", element " << k << ", gap " << gap;
      }
    }
  }
}

}  // namespace
}  // namespace shardit
