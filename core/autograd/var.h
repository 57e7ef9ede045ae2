// Var: a handle on a value of a tape: the tensor and where it came from. Cheap to copy; valid as long as its tape and
// leaf.
#pragma once

#include "core/autograd/leaf.h"
#include "core/tensor/tensor.h"

namespace shardit {

class Node;

class Var {
 public:
  Var() = default;
  // A constant: no gradient flows into it.
  explicit Var(Tensor value) : value_(std::move(value)) {}
  // A use of `leaf`.
  explicit Var(Leaf& leaf) : value_(leaf.value), leaf_(leaf.requires_grad ? &leaf : nullptr) {}
  // Output `output` of `producer`.
  Var(Tensor value, Node* producer, int output) : value_(std::move(value)), producer_(producer), output_(output) {}

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  int64_t dim(int index) const { return value_.dim(index); }
  bool requires_grad() const { return producer_ != nullptr || leaf_ != nullptr; }

  // The same place on the tape without keeping the value in memory: what a seed of backward needs.
  Var WithoutValue() const {
    Var var = *this;
    var.value_ = Tensor::Meta(value_.shape(), value_.dtype());
    return var;
  }

  Node* producer() const { return producer_; }
  int output() const { return output_; }
  Leaf* leaf() const { return leaf_; }

 private:
  Tensor value_;
  Node* producer_ = nullptr;
  int output_ = 0;
  Leaf* leaf_ = nullptr;
};

// What a node keeps of an input that it reads again in backward: a leaf by reference, anything else by value.
class SavedVar {
 public:
  SavedVar() = default;
  explicit SavedVar(const Var& var) : leaf_(var.leaf()), value_(leaf_ == nullptr ? var.value() : Tensor()) {}

  const Tensor& value() const { return leaf_ == nullptr ? value_ : leaf_->value; }

 private:
  Leaf* leaf_ = nullptr;
  Tensor value_;
};

}  // namespace shardit
