#include "core/ops/mlp.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/linear_product.h"

namespace shardit {
namespace {

enum Input { kX, kW1, kB1, kW2, kB2 };

class MlpNode : public Node {
 public:
  MlpNode(Tensor x, SavedVar w1, SavedVar w2, Tensor pre, Tensor act)
      : Node(1), x_(std::move(x)), w1_(std::move(w1)), w2_(std::move(w2)), pre_(std::move(pre)), act_(std::move(act)) {}

  const char* name() const override { return "mlp"; }
  bool has_deferrable_weights() const override { return Needs(kW1) || Needs(kB1) || Needs(kW2) || Needs(kB2); }

  void Backward(RankContext& context) override {
    d_pre_ = Tensor::Empty(context.allocator(), pre_.shape(), pre_.dtype());
    GemmArgs hidden = LinearInputGrad(Grad(), w2_.value(), d_pre_);
    hidden.epilogue = GemmEpilogue::kGeluGrad;
    hidden.aux = pre_.ref();
    hidden.ldaux = pre_.dim(-1);
    Gemm(hidden, context);
    pre_ = Tensor();
    if (!Needs(kX)) return;
    const GradDestination dx = Destination(context, kX);
    GemmArgs input = LinearInputGrad(d_pre_, w1_.value(), dx.tensor);
    input.accumulate = dx.accumulate;
    Gemm(input, context);
  }

  void BackwardWeights(RankContext& context) override {
    const auto destination = [&](int input) { return Needs(input) ? Destination(context, input) : GradDestination{}; };
    if (Needs(kW2) || Needs(kB2)) LinearWeightGrad(context, Grad(), act_, destination(kW2), destination(kB2));
    if (Needs(kW1) || Needs(kB1)) LinearWeightGrad(context, d_pre_, x_, destination(kW1), destination(kB1));
  }

 private:
  Tensor x_;
  SavedVar w1_, w2_;
  Tensor pre_, act_, d_pre_;
};

}  // namespace

Var Mlp(Tape& tape, const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2) {
  const NvtxRange range("mlp");
  const Tensor& xv = x.value();
  const int64_t in = w1.dim(1), hidden = w1.dim(0), out = w2.dim(0);
  CHECK(xv.is_dense() && xv.dim(-1) == in && w2.dim(1) == hidden && b1.shape() == Shape({hidden}) &&
        (!b2.defined() || b2.shape() == Shape({out})))
      << "[mlp] x " << xv.shape() << ", w1 " << w1.shape() << ", b1 " << b1.shape() << ", w2 " << w2.shape() << ", b2 "
      << b2.shape();
  Shape shape = xv.shape();
  shape[-1] = hidden;
  Tensor pre = Tensor::Empty(tape.allocator(), shape, xv.dtype());
  Tensor act = Tensor::Empty(tape.allocator(), shape, xv.dtype());
  GemmArgs first = LinearForward(xv, w1.value(), b1.value(), act);
  first.epilogue = GemmEpilogue::kBiasGelu;
  first.aux = pre.ref();
  first.ldaux = hidden;
  Gemm(first, tape.context());

  shape[-1] = out;
  Tensor y = Tensor::Empty(tape.allocator(), shape, xv.dtype());
  Gemm(LinearForward(act, w2.value(), b2.value(), y), tape.context());
  if (!tape.Records({&x, &w1, &b1, &w2, &b2})) return Var(std::move(y));
  return tape.Record(std::make_unique<MlpNode>(xv, SavedVar(w1), SavedVar(w2), pre, act), {x, w1, b1, w2, b2}, {y},
                     {xv, pre, act})[0];
}

}  // namespace shardit
