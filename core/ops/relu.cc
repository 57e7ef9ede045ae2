#include "core/ops/relu.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class ReluNode : public Node {
 public:
  explicit ReluNode(Tensor y) : Node(1), y_(std::move(y)) {}
  const char* name() const override { return "relu"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[relu] gradient strides " << dx.tensor.strides();
    ReluBwd(
        {.y = y_.ref(), .dy = Grad().ref(), .dx = dx.tensor.ref(), .accumulate = dx.accumulate, .count = y_.elements()},
        context);
  }

 private:
  Tensor y_;
};

}  // namespace

Var Relu(Tape& tape, const Var& x) {
  const NvtxRange range("relu");
  CHECK(x.value().is_dense()) << "[relu] x " << x.shape() << " with strides " << x.value().strides();
  Tensor y = Tensor::Empty(tape.allocator(), x.shape(), x.value().dtype());
  ReluFwd({.x = x.value().ref(), .y = y.ref(), .count = y.elements()}, tape.context());
  if (!tape.Records({&x})) return Var(std::move(y));
  return tape.Record(std::make_unique<ReluNode>(y), {x}, {y}, {y})[0];
}

}  // namespace shardit
