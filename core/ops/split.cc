#include "core/ops/split.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace shardit {
namespace {

class SplitNode : public Node {
 public:
  SplitNode(Shape shape, DType dtype, int parts) : Node(parts), shape_(shape), dtype_(dtype), parts_(parts) {}

  const char* name() const override { return "split"; }

  Tensor GradStorage(RankContext& context, int output) override {
    if (!grad_.defined()) grad_ = Tensor::Empty(context.allocator(), shape_, dtype_);
    return Part(output);
  }

  void Backward(RankContext& context) override {
    for (int i = 0; i < parts_; ++i) {
      if (Grad(i).defined()) continue;
      Part(i).Zero();
    }
    Deliver(context, 0, std::move(grad_));
  }

 private:
  Tensor Part(int index) const {
    const int64_t width = shape_[1] / parts_;
    return grad_.Narrow(1, index * width, width);
  }

  const Shape shape_;
  const DType dtype_;
  const int parts_;
  Tensor grad_;  // the parts' gradients, side by side
};

}  // namespace

std::vector<Var> SplitColumns(Tape& tape, const Var& x_NE, int64_t parts) {
  const Tensor& x = x_NE.value();
  CHECK(x.ndim() == 2 && x.dim(1) % parts == 0) << "[split] x " << x.shape() << " into " << parts;
  const int64_t width = x.dim(1) / parts;
  std::vector<Tensor> views;
  for (int64_t i = 0; i < parts; ++i) views.push_back(x.Narrow(1, i * width, width));
  if (!tape.Records({&x_NE})) {
    std::vector<Var> constants;
    for (Tensor& view : views) constants.emplace_back(std::move(view));
    return constants;
  }
  return tape.Record(std::make_unique<SplitNode>(x.shape(), x.dtype(), static_cast<int>(parts)), {x_NE},
                     std::move(views), {});
}

}  // namespace shardit
