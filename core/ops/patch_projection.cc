#include "core/ops/patch_projection.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/linear_product.h"
#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

class PatchProjectionNode : public Node {
 public:
  explicit PatchProjectionNode(Tensor patches) : Node(1), patches_(std::move(patches)) {}

  const char* name() const override { return "patch_projection"; }
  bool has_deferrable_weights() const override { return true; }
  void Backward(RankContext& context) override {}
  void BackwardWeights(RankContext& context) override {
    LinearWeightGrad(context, Grad(), patches_, Destination(context, 0), Destination(context, 1));
  }

 private:
  Tensor patches_;
};

}  // namespace

Var PatchProjection(Tape& tape, const Tensor& patches_NTE, const Var& w, const Var& b, const Tensor& position_TD) {
  const NvtxRange range("patch_projection");
  const int64_t batch = patches_NTE.dim(0), tokens = patches_NTE.dim(1), in = patches_NTE.dim(2), out = w.dim(0);
  CHECK(w.value().elements() == out * in && b.shape() == Shape({out}) && position_TD.shape() == Shape({tokens, out}))
      << "[patch_projection] patches " << patches_NTE.shape() << ", w " << w.shape() << ", b " << b.shape()
      << ", position " << position_TD.shape();
  Tensor y = Tensor::Empty(tape.allocator(), {batch, tokens, out}, patches_NTE.dtype());
  // The position table is laid down first; the product, with its bias, is added on top as it is stored.
  CopyRows({.source = position_TD.ref(),
            .source_stride = 0,
            .destination = y.ref(),
            .destination_stride = tokens * out,
            .rows = batch,
            .count = tokens * out},
           tape.context());
  GemmArgs gemm = LinearForward(patches_NTE, w.value(), b.value(), y);
  gemm.accumulate = true;
  Gemm(gemm, tape.context());
  if (!tape.Records({&w, &b})) return Var(std::move(y));
  return tape.Record(std::make_unique<PatchProjectionNode>(patches_NTE), {w, b}, {y}, {patches_NTE})[0];
}

}  // namespace shardit
