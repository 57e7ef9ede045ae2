// Node: one fused operation on a tape, with its backward. A node's file holds an explicit forward and backward pair;
// model code only ever writes the forward.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/autograd/var.h"
#include "core/tensor/rank_context.h"

namespace shardit {

class Tape;

// Where a backward kernel puts the gradient of one input: it overwrites `tensor`, or adds to it.
struct GradDestination {
  Tensor tensor;
  bool accumulate = false;
};

class Node {
 public:
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // A string literal: reports, traces and SavedBytes() go by it.
  virtual const char* name() const = 0;

  // Called before Backward, and before the weight part of the node that ran last: a collective on the gradients of the
  // outputs that starts here travels while that weight part computes. Backward then waits for it.
  virtual void StartBackward(RankContext& context) {}
  // Reads the gradients of the outputs (Grad) and delivers those of the inputs (Destination or Deliver). Runs once,
  // after every consumer of every output has run.
  virtual void Backward(RankContext& context) = 0;
  // The part of backward that only leaves wait for (weight gradients), when it can be run later. It may use Grad() and
  // saved tensors; it delivers to leaves only.
  virtual void BackwardWeights(RankContext& context) {}
  virtual bool has_deferrable_weights() const { return false; }

  // Where the gradient of output `output` is to be gathered when its first contribution arrives; undefined means a
  // fresh dense tensor of the output's shape, of GradType. A node whose outputs are views of one tensor returns views
  // of one gradient.
  virtual Tensor GradStorage(RankContext& context, int output) { return {}; }
  // The type in which the gradient of output `output` is gathered: the output's, or a wider one where many nodes read
  // it, since a long sum loses digits in bf16.
  virtual DType GradType(int output) const { return output_dtypes_[static_cast<size_t>(output)]; }

  // Bytes kept alive for backward by this node first: a storage that an earlier node of the tape saved is counted
  // there.
  int64_t saved_bytes() const { return saved_bytes_; }

 protected:
  explicit Node(int outputs)
      : output_grads_(static_cast<size_t>(outputs)),
        output_shapes_(output_grads_.size()),
        output_dtypes_(output_grads_.size()) {}

  // True when input i wants a gradient.
  bool Needs(int input) const { return edge(input).requires_grad(); }
  // Gradient of output `output`; undefined when nothing downstream depended on it.
  const Tensor& Grad(int output = 0) const { return output_grads_[static_cast<size_t>(output)]; }
  // The type in which the gradient of input i is gathered.
  DType InputGradType(int input) const;
  // The place for the gradient of input i. At most one call per input and backward.
  GradDestination Destination(RankContext& context, int input);
  // Hands over a gradient that already lies in `grad`: moved in where it is the first contribution and of the type in
  // which they are gathered, added otherwise. The caller gives the tensor up; a node that has deferrable weights must
  // not deliver its own Grad().
  void Deliver(RankContext& context, int input, Tensor grad);
  // During Backward(): whether BackwardWeights() follows at once or is deferred.
  bool weights_deferred() const { return weights_deferred_; }

 private:
  friend class Tape;

  // An input without its value: what a node needs of a value it declares as saved.
  struct Edge {
    Node* producer = nullptr;
    int output = 0;
    Leaf* leaf = nullptr;
    bool requires_grad() const { return producer != nullptr || leaf != nullptr; }
  };
  // Adds `grad` to the gradient of one of this node's outputs: moved in where it is the first contribution, of
  // GradType, and the node has no storage of its own for it.
  void AddOutputGrad(RankContext& context, int output, Tensor grad);
  const Edge& edge(int input) const { return edges_[static_cast<size_t>(input)]; }

  std::vector<Edge> edges_;
  std::vector<Tensor> output_grads_;
  std::vector<Shape> output_shapes_;
  std::vector<DType> output_dtypes_;
  int64_t sequence_ = 0;       // creation number on its tape
  int pending_consumers_ = 0;  // edges from nodes of the running backward that have not run yet
  int64_t saved_bytes_ = 0;
  bool weights_deferred_ = false;
};

}  // namespace shardit
