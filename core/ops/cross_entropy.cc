#include "core/ops/cross_entropy.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class CrossEntropyNode : public Node {
 public:
  CrossEntropyNode(Tensor logits, Tensor labels) : Node(1), logits_(std::move(logits)), labels_(std::move(labels)) {}
  const char* name() const override { return "cross_entropy"; }

  void Backward(RankContext& context) override {
    const GradDestination dlogits = Destination(context, 0);
    CHECK(dlogits.tensor.is_dense()) << "[cross_entropy] gradient strides " << dlogits.tensor.strides();
    CrossEntropyBwd({.logits = logits_.data(),
                     .labels = labels_.data<int32_t>(),
                     .dlosses = Grad().data(),
                     .dlogits = dlogits.tensor.data(),
                     .accumulate = dlogits.accumulate,
                     .count = logits_.dim(0),
                     .classes = logits_.dim(1)},
                    context);
  }

 private:
  const Tensor logits_;
  const Tensor labels_;
};

}  // namespace

Var CrossEntropy(Tape& tape, const Var& logits_NK, const Tensor& labels_N) {
  const NvtxRange range("cross_entropy");
  const Tensor& logits = logits_NK.value();
  CHECK(logits.ndim() == 2 && logits.is_dense() && logits.dim(1) >= 1 && labels_N.is_dense() &&
        labels_N.shape() == Shape({logits.dim(0)}))
      << "[cross_entropy] logits " << logits.shape() << ", labels " << labels_N.shape();
  Tensor losses = Tensor::Empty(tape.allocator(), {logits.dim(0)});
  CrossEntropyFwd({.logits = logits.data(),
                   .labels = labels_N.data<int32_t>(),
                   .losses = losses.data(),
                   .count = logits.dim(0),
                   .classes = logits.dim(1)},
                  tape.context());
  if (!tape.Records({&logits_NK})) return Var(std::move(losses));
  return tape.Record(std::make_unique<CrossEntropyNode>(logits, labels_N), {logits_NK}, {std::move(losses)},
                     {logits, labels_N})[0];
}

}  // namespace shardit
