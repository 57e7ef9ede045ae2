#include "core/ops/silu.h"

#include <memory>
#include <utility>

namespace shardit {
namespace {

class SiluNode : public Node {
 public:
  explicit SiluNode(Tensor x) : Node(1), x_(std::move(x)) {}
  const char* name() const override { return "silu"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[silu] gradient strides " << dx.tensor.strides();
    cpu::SiluBwd({.x = x_.data(),
                  .dy = Grad().data(),
                  .dx = dx.tensor.data(),
                  .accumulate = dx.accumulate,
                  .count = x_.elements()},
                 context.cpu());
  }

 private:
  Tensor x_;
};

}  // namespace

Var Silu(Tape& tape, const Var& x) {
  CHECK(x.value().is_dense()) << "[silu] x " << x.shape() << " with strides " << x.value().strides();
  Tensor y = Tensor::Empty(tape.allocator(), x.shape());
  cpu::SiluFwd({.x = x.value().data(), .y = y.data(), .count = y.elements()}, tape.context().cpu());
  if (!tape.Records({&x})) return Var(std::move(y));
  return tape.Record(std::make_unique<SiluNode>(x.value()), {x}, {std::move(y)}, {x.value()})[0];
}

}  // namespace shardit
