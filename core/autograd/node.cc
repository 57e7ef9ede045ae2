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
    const size_t output = static_cast<size_t>(to.output);
    grad = Tensor::Empty(context.allocator(), to.producer->output_shapes_[output], to.producer->output_dtypes_[output]);
  }
  return {grad, false};
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
  if (!leaf.grad.defined() && leaf.grad_source == nullptr) {
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
    if (!slot.defined()) {
      slot = std::move(grad);
      return;
    }
    slot.Zero();
  }
  Accumulate(context, slot, grad);
}

}  // namespace shardit
