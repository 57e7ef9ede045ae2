#include "core/autograd/node.h"

#include <utility>

#include "core/tensor/accumulate.h"

namespace shardit {

GradDestination Node::Destination(RankContext& context, int input) {
  const Edge& to = edge(input);
  CHECK(to.requires_grad()) << "[" << name() << "] input " << input << " wants no gradient";
  if (to.leaf != nullptr) {
    Leaf& leaf = *to.leaf;
    if (!leaf.grad.defined() && leaf.grad_source != nullptr) leaf.grad_source->ProvideGrad(leaf);
    if (!leaf.grad.defined()) leaf.grad = Tensor::Empty(context.allocator(), leaf.value.shape(), leaf.grad_dtype);
    return {leaf.grad, std::exchange(leaf.grad_written, true)};
  }
  Tensor& grad = to.producer->output_grads_[static_cast<size_t>(to.output)];
  if (grad.defined()) return {grad, true};
  grad = to.producer->GradStorage(context, to.output);
  if (!grad.defined()) {
    const Shape& shape = to.producer->output_shapes_[static_cast<size_t>(to.output)];
    grad = Tensor::Empty(context.allocator(), shape, to.producer->GradType(to.output));
  }
  return {grad, false};
}

DType Node::InputGradType(int input) const {
  const Edge& to = edge(input);
  CHECK(to.requires_grad()) << "[" << name() << "] input " << input << " wants no gradient";
  if (to.leaf == nullptr) return to.producer->GradType(to.output);
  return to.leaf->grad.defined() ? to.leaf->grad.dtype() : to.leaf->grad_dtype;
}

void Node::Deliver(RankContext& context, int input, Tensor grad) {
  const Edge& to = edge(input);
  CHECK(to.requires_grad()) << "[" << name() << "] input " << input << " wants no gradient";
  if (to.leaf == nullptr) {
    to.producer->AddOutputGrad(context, to.output, std::move(grad));
    return;
  }
  Leaf& leaf = *to.leaf;
  CHECK(grad.shape() == leaf.value.shape())
      << "[" << name() << "] gradient " << grad.shape() << " for leaf " << leaf.name << " " << leaf.value.shape();
  if (!leaf.grad.defined() && leaf.grad_source == nullptr && grad.dtype() == leaf.grad_dtype) {
    leaf.grad = std::move(grad);
    leaf.grad_written = true;
    return;
  }
  const GradDestination destination = Destination(context, input);
  if (!destination.accumulate) destination.tensor.Zero();
  Accumulate(context, destination.tensor, grad);
}

void Node::AddOutputGrad(RankContext& context, int output, Tensor grad) {
  const size_t index = static_cast<size_t>(output);
  CHECK(grad.shape() == output_shapes_[index])
      << "[" << name() << "] gradient " << grad.shape() << " for output " << output << " " << output_shapes_[index];
  Tensor& slot = output_grads_[index];
  if (!slot.defined()) {
    slot = GradStorage(context, output);
    if (!slot.defined() && grad.dtype() == GradType(output)) {
      slot = std::move(grad);
      return;
    }
    if (!slot.defined()) slot = Tensor::Empty(context.allocator(), output_shapes_[index], GradType(output));
    slot.Zero();
  }
  Accumulate(context, slot, grad);
}

}  // namespace shardit
