#include "core/autograd/tape.h"

#include <algorithm>
#include <cmath>

#include "core/cuda/nvtx.h"

namespace shardit {

bool Tape::Records(std::initializer_list<const Var*> inputs) const {
  return recording() &&
         std::any_of(inputs.begin(), inputs.end(), [](const Var* input) { return input->requires_grad(); });
}

std::vector<Var> Tape::Record(std::unique_ptr<Node> node, std::vector<Var> inputs, std::vector<Tensor> outputs,
                              std::vector<Tensor> saved) {
  CHECK(recording());
  node->sequence_ = static_cast<int64_t>(nodes_.size());
  for (const Var& input : inputs) node->edges_.push_back({input.producer(), input.output(), input.leaf()});
  for (const Tensor& tensor : saved) {
    if (!tensor.defined()) continue;
    const bool is_leaf = std::any_of(inputs.begin(), inputs.end(), [&](const Var& input) {
      return input.leaf() != nullptr && input.value().storage_id() == tensor.storage_id();
    });
    if (!is_leaf && saved_storages_.insert(tensor.storage_id()).second) {
      node->saved_bytes_ += tensor.storage_bytes();
    }
  }
  std::vector<Var> results;
  for (size_t i = 0; i < outputs.size(); ++i) {
    node->output_shapes_[i] = outputs[i].shape();
    node->output_dtypes_[i] = outputs[i].dtype();
    results.emplace_back(std::move(outputs[i]), node.get(), static_cast<int>(i));
  }
  context_.ops().Record(node->name());
  nodes_.push_back(std::move(node));
  return results;
}

void Tape::Backward(std::vector<Seed> seeds, const BackwardOptions& options) {
  options_ = options;
  CountConsumers(seeds);
  for (Seed& seed : seeds) {
    Node* producer = seed.output.producer();
    CHECK(producer != nullptr) << "[backward] the seed's output was not recorded on a tape";
    producer->AddOutputGrad(context_, seed.output.output(), std::move(seed.grad));
    const bool queued = std::find(ready_.begin(), ready_.end(), producer) != ready_.end();
    if (producer->pending_consumers_ == 0 && !queued) ready_.push_back(producer);
  }
  RunReadyNodes();
}

void Tape::CountConsumers(const std::vector<Seed>& seeds) {
  std::vector<Node*> stack;
  std::vector<bool> reached(nodes_.size(), false);
  const auto reach = [&](Node* node) {
    if (node == nullptr || reached[static_cast<size_t>(node->sequence_)]) return;
    reached[static_cast<size_t>(node->sequence_)] = true;
    stack.push_back(node);
  };
  for (const Seed& seed : seeds) reach(seed.output.producer());
  while (!stack.empty()) {
    Node* node = stack.back();
    stack.pop_back();
    for (const Node::Edge& edge : node->edges_) {
      if (edge.leaf != nullptr) ++pending_leaf_uses_[edge.leaf];
      if (edge.producer != nullptr) ++edge.producer->pending_consumers_;
      reach(edge.producer);
    }
  }
}

void Tape::RunReadyNodes() {
  const auto older = [](const Node* a, const Node* b) { return a->sequence_ < b->sequence_; };
  std::make_heap(ready_.begin(), ready_.end(), older);
  Node* last = nullptr;
  while (!ready_.empty()) {
    std::pop_heap(ready_.begin(), ready_.end(), older);
    Node& node = *ready_.back();
    ready_.pop_back();
    node.StartBackward(context_);
    if (last != nullptr) RunWeights(*last);
    last = &node;
    context_.ops().Record(node.name());
    node.weights_deferred_ = options_.defer_weights && node.has_deferrable_weights();
    {
      const NvtxRange range(node.name());
      node.Backward(context_);
    }
    for (const Node::Edge& edge : node.edges_) {
      if (edge.producer != nullptr && --edge.producer->pending_consumers_ == 0) {
        ready_.push_back(edge.producer);
        std::push_heap(ready_.begin(), ready_.end(), older);
      }
    }
  }
  if (last != nullptr) RunWeights(*last);
}

void Tape::RunWeights(Node& node) {
  if (!node.weights_deferred_) {
    const NvtxRange range(node.name());
    node.BackwardWeights(context_);
  }
  if (check_finite_) CheckFinite(node);
  Finish(node);
}

void Tape::Finish(Node& node) {
  std::unique_ptr<Node>& owner = nodes_[static_cast<size_t>(node.sequence_)];
  if (node.weights_deferred_) {
    deferred_.push_back(std::move(owner));
    return;
  }
  const std::unique_ptr<Node> finished = std::move(owner);
  ReleaseLeaves(*finished);
}

int Tape::RunDeferredWeights() {
  const std::vector<std::unique_ptr<Node>> deferred = std::exchange(deferred_, {});
  for (const std::unique_ptr<Node>& node : deferred) {
    context_.ops().Record(node->name());
    const NvtxRange range(node->name());
    node->BackwardWeights(context_);
    ReleaseLeaves(*node);
  }
  return static_cast<int>(deferred.size());
}

void Tape::ReleaseLeaves(const Node& node) {
  for (const Node::Edge& edge : node.edges_) {
    if (edge.leaf == nullptr || --pending_leaf_uses_[edge.leaf] > 0) continue;
    pending_leaf_uses_.erase(edge.leaf);
    if (options_.observer != nullptr) options_.observer->OnLeafFinal(*edge.leaf);
  }
}

void Tape::CheckFinite(const Node& node) {
  if (!non_finite_node_.empty()) return;
  for (const Node::Edge& edge : node.edges_) {
    const Tensor grad = edge.leaf != nullptr       ? edge.leaf->grad
                        : edge.producer != nullptr ? edge.producer->output_grads_[static_cast<size_t>(edge.output)]
                                                   : Tensor();
    if (!grad.defined() || !grad.is_dense()) continue;
    if (IsFinite(grad)) continue;
    non_finite_node_ =
        std::string(node.name()) + (edge.leaf != nullptr ? " (gradient of " + edge.leaf->name + ")" : "");
    return;
  }
}

// Waits for a GPU: the check is for debugging.
bool Tape::IsFinite(const Tensor& grad) {
  std::vector<char> copy;
  const void* elements = grad.raw();
  if (!grad.device().is_cpu()) {
    copy.resize(static_cast<size_t>(grad.bytes()));
    cuda::CopyAsync(copy.data(), elements, grad.bytes(), allocator().stream());
    context_.Synchronize();
    elements = copy.data();
  }
  for (int64_t i = 0; i < grad.elements(); ++i) {
    const float value = grad.dtype() == DType::kBF16 ? static_cast<const BFloat16*>(elements)[i].ToFloat()
                                                     : static_cast<const float*>(elements)[i];
    if (!std::isfinite(value)) return false;
  }
  return true;
}

std::map<std::string, int64_t, std::less<>> Tape::SavedBytesByNode() const {
  std::map<std::string, int64_t, std::less<>> bytes;
  for (const auto* nodes : {&nodes_, &deferred_}) {
    for (const std::unique_ptr<Node>& node : *nodes) {
      if (node != nullptr && node->saved_bytes() > 0) bytes[node->name()] += node->saved_bytes();
    }
  }
  return bytes;
}

int64_t Tape::SavedBytes() const {
  int64_t total = 0;
  for (const auto& [name, bytes] : SavedBytesByNode()) total += bytes;
  return total;
}

}  // namespace shardit
