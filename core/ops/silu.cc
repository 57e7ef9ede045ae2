#include "core/ops/silu.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class SiluNode : public Node {
 public:
  explicit SiluNode(Tensor x) : Node(1), x_(std::move(x)) {}
  const char* name() const override { return "silu"; }

  DType GradType(int output) const override { return DType::kF32; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[silu] gradient strides " << dx.tensor.strides();
    SiluBwd(
        {.x = x_.ref(), .dy = Grad().ref(), .dx = dx.tensor.ref(), .accumulate = dx.accumulate, .count = x_.elements()},
        context);
  }

 private:
  Tensor x_;
};

}  // namespace

Var Silu(Tape& tape, const Var& x) {
  const NvtxRange range("silu");
  CHECK(x.value().is_dense()) << "[silu] x " << x.shape() << " with strides " << x.value().strides();
  Tensor y = Tensor::Empty(tape.allocator(), x.shape(), x.value().dtype());
  SiluFwd({.x = x.value().ref(), .y = y.ref(), .count = y.elements()}, tape.context());
  if (!tape.Records({&x})) return Var(std::move(y));
  return tape.Record(std::make_unique<SiluNode>(x.value()), {x}, {std::move(y)}, {x.value()})[0];
}

}  // namespace shardit
