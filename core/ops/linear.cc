#include "core/ops/linear.h"

#include <memory>
#include <optional>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/linear_product.h"

namespace shardit {
namespace {

class LinearNode : public Node {
 public:
  LinearNode(Tensor x, SavedVar w) : Node(1), x_(std::move(x)), w_(std::move(w)) {}

  const char* name() const override { return "linear"; }
  bool has_deferrable_weights() const override { return Needs(1) || Needs(2); }

  void Backward(RankContext& context) override {
    if (!Needs(0)) return;
    const GradDestination dx = Destination(context, 0);
    GemmArgs gemm = LinearInputGrad(Grad(), w_.value(), dx.tensor);
    gemm.accumulate = dx.accumulate;
    Gemm(gemm, context);
  }

  void BackwardWeights(RankContext& context) override {
    if (!has_deferrable_weights()) return;
    const auto destination = [&](int input) { return Needs(input) ? Destination(context, input) : GradDestination{}; };
    LinearWeightGrad(context, Grad(), x_, destination(1), destination(2));
  }

 private:
  Tensor x_;
  SavedVar w_;
};

// The distance between neighbours, in elements; nothing where it is not the same for all, or they are not of one
// storage.
std::optional<int64_t> Stride(std::span<const Tensor> tensors) {
  const auto at = [&](size_t i) { return static_cast<const char*>(tensors[i].raw()); };
  const int64_t stride = tensors.size() == 1 ? 0 : at(1) - at(0);
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].storage_id() != tensors[0].storage_id() || at(i) - at(i - 1) != stride) return std::nullopt;
  }
  if (stride < 0) return std::nullopt;
  return stride / SizeOf(tensors[0].dtype());
}

}  // namespace

std::vector<Tensor> LinearValues(RankContext& context, const Tensor& x, std::span<const Tensor> weights,
                                 std::span<const Tensor> biases) {
  const NvtxRange range("linear_values");
  CHECK(!weights.empty() && weights.size() == biases.size())
      << "[linear] " << weights.size() << " weights, " << biases.size() << " biases";
  const int64_t layers = static_cast<int64_t>(weights.size()), out = weights[0].dim(0);
  const Tensor all = Tensor::Empty(context.allocator(), {layers, x.elements() / x.dim(-1), out}, x.dtype());
  const std::optional<int64_t> weight_stride = Stride(weights), bias_stride = Stride(biases);
  const bool even = weight_stride.has_value() && bias_stride.has_value();
  for (int64_t i = 0; i < (even ? 1 : layers); ++i) {
    GemmArgs gemm =
        LinearForward(x, weights[static_cast<size_t>(i)], biases[static_cast<size_t>(i)], all.Narrow(0, i, 1));
    if (even) {
      gemm.batch = layers;
      gemm.b_stride = *weight_stride;
      gemm.bias_stride = *bias_stride;
      gemm.c_stride = all.stride(0);
    }
    Gemm(gemm, context);
  }
  std::vector<Tensor> values;
  Shape shape = x.shape();
  shape[-1] = out;
  for (int64_t i = 0; i < layers; ++i) values.push_back(all.Narrow(0, i, 1).Reshape(shape));
  return values;
}

Var Linear(Tape& tape, const Var& x, const Var& w, const Var& b) {
  const NvtxRange range("linear");
  const Tensor& xv = x.value();
  const Tensor& wv = w.value();
  CHECK(wv.ndim() == 2 && xv.dim(-1) == wv.dim(1) && xv.is_dense() && wv.is_dense())
      << "[linear] x " << xv.shape() << ", w " << wv.shape();
  CHECK(xv.dtype() == wv.dtype()) << "[linear] x " << Name(xv.dtype()) << ", w " << Name(wv.dtype());
  CHECK(!b.defined() || b.shape() == Shape({wv.dim(0)})) << "[linear] w " << wv.shape() << ", b " << b.shape();
  Shape shape = xv.shape();
  shape[-1] = wv.dim(0);
  Tensor y = Tensor::Empty(tape.allocator(), shape, xv.dtype());
  Gemm(LinearForward(xv, wv, b.value(), y), tape.context());
  return LinearOf(tape, x, w, b, std::move(y));
}

Var LinearOf(Tape& tape, const Var& x, const Var& w, const Var& b, Tensor y) {
  const Tensor& xv = x.value();
  if (!tape.Records({&x, &w, &b})) return Var(std::move(y));
  return tape.Record(std::make_unique<LinearNode>(xv, SavedVar(w)), {x, w, b}, {y},
                     {w.requires_grad() ? xv : Tensor()})[0];
}

}  // namespace shardit
