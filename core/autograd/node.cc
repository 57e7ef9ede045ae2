#include "core/autograd/node.h"

#include <utility>

#include "core/tensor/accumulate.h"

namespace shardit {

GradDestination Node::Destination(RankContext& context, int input) {
  const Edge& to = edge(input);
  CHECK(to.requires_grad()) << "[" << name() << "] input " << input << " wants no gradient";
  if (to.leaf != nullptr) {
    Leaf& leaf = *to.leaf;
    if (!leaf.grad.defined()) leaf.grad = Tensor::Empty(context.allocator(), leaf.value.shape());
    return {leaf.grad, std::exchange(leaf.grad_written, true)};
  }
  Tensor& grad = to.producer->output_grads_[static_cast<size_t>(to.output)];
  if (grad.defined()) return {grad, true};
  grad = to.producer->GradStorage(context, to.output);
  if (!grad.defined()) {
    grad = Tensor::Empty(context.allocator(), to.producer->output_shapes_[static_cast<size_t>(to.output)]);
  }
  return {grad, false};
}

void Node::Deliver(RankContext& context, int input, Tensor grad) {
  const Edge& to = edge(input);
  CHECK(to.requires_grad()) << "[" << name() << "] input " << input << " wants no gradient";
  if (to.leaf == nullptr) {
    Tensor& slot = to.producer->output_grads_[static_cast<size_t>(to.output)];
    if (!slot.defined() && !to.producer->GradStorage(context, to.output).defined()) {
      CHECK(grad.shape() == to.producer->output_shapes_[static_cast<size_t>(to.output)])
          << "[" << name() << "] gradient " << grad.shape() << " for input " << input;
      slot = std::move(grad);
      return;
    }
  } else if (!to.leaf->grad.defined()) {
    CHECK(grad.shape() == to.leaf->value.shape()) << "[" << name() << "] gradient " << grad.shape() << " for leaf "
                                                  << to.leaf->name << " " << to.leaf->value.shape();
    to.leaf->grad = std::move(grad);
    to.leaf->grad_written = true;
    return;
  }
  const GradDestination destination = Destination(context, input);
  if (!destination.accumulate) {
    // A view of shared gradient storage: zero plus the contribution, through the one strided routine.
    for (int64_t row = 0; row < destination.tensor.dim(0); ++row) destination.tensor.Narrow(0, row, 1).Zero();
  }
  Accumulate(context.pool(), destination.tensor, grad);
}

}  // namespace shardit
