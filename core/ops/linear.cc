#include "core/ops/linear.h"

#include <memory>
#include <utility>

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

}  // namespace

Var Linear(Tape& tape, const Var& x, const Var& w, const Var& b) {
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
  if (!tape.Records({&x, &w, &b})) return Var(std::move(y));
  return tape.Record(std::make_unique<LinearNode>(xv, SavedVar(w)), {x, w, b}, {y},
                     {w.requires_grad() ? xv : Tensor()})[0];
}

}  // namespace shardit
