#include "core/ops/linear.h"

#include <memory>
#include <utility>

#include "core/ops/gemm.h"
#include "core/ops/linear_grad.h"

namespace shardit {
namespace {

class LinearNode : public Node {
 public:
  LinearNode(Tensor x, Tensor w) : Node(1), x_(std::move(x)), w_(std::move(w)) {}

  const char* name() const override { return "linear"; }
  bool has_deferrable_weights() const override { return Needs(1) || Needs(2); }

  void Backward(RankContext& context) override {
    if (Needs(0)) LinearInputGrad(context, Grad(), w_, Destination(context, 0));
  }

  void BackwardWeights(RankContext& context) override {
    if (!has_deferrable_weights()) return;
    const auto destination = [&](int input) { return Needs(input) ? Destination(context, input) : GradDestination{}; };
    LinearWeightGrad(context, Grad(), x_, destination(1), destination(2));
  }

 private:
  Tensor x_;
  Tensor w_;
};

}  // namespace

Var Linear(Tape& tape, const Var& x, const Var& w, const Var& b) {
  const Tensor& xv = x.value();
  const Tensor& wv = w.value();
  CHECK(wv.ndim() == 2 && xv.dim(-1) == wv.dim(1) && xv.is_dense() && wv.is_dense())
      << "[linear] x " << xv.shape() << ", w " << wv.shape();
  CHECK(!b.defined() || b.shape() == Shape({wv.dim(0)})) << "[linear] w " << wv.shape() << ", b " << b.shape();
  Shape shape = xv.shape();
  shape[-1] = wv.dim(0);
  Tensor y = Tensor::Empty(tape.allocator(), shape);
  const int64_t in = wv.dim(1), out = wv.dim(0);
  GemmArgs gemm{.form = GemmForm::kNT, .m = xv.elements() / in, .n = out, .k = in};
  gemm.a = xv.data();
  gemm.lda = in;
  gemm.b = wv.data();
  gemm.ldb = in;
  gemm.c = y.data();
  gemm.ldc = out;
  if (b.defined()) {
    gemm.epilogue = GemmEpilogue::kBias;
    gemm.bias = b.value().data();
  }
  cpu::Gemm(gemm, tape.context().cpu());
  if (!tape.Records({&x, &w, &b})) return Var(std::move(y));
  return tape.Record(std::make_unique<LinearNode>(xv, wv), {x, w, b}, {y}, {w.requires_grad() ? xv : Tensor()})[0];
}

}  // namespace shardit
