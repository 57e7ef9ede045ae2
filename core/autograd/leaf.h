// Leaf: a value whose gradient somebody wants: a parameter, or the input of a pipeline stage. A leaf outlives the tapes
// that use it. Its value may move between forward and backward (ZeRO stage 3 gathers it anew for each), so nodes keep
// leaves, not their values (SavedVar).
#pragma once

#include <string>

#include "core/tensor/tensor.h"

namespace shardit {

struct Leaf;

// Makes gradients that do not lie in memory all the time (ZeRO stages 2 and 3).
class GradSource {
 public:
  virtual ~GradSource() = default;
  // The first contribution to `leaf` is about to be written and `leaf.grad` is not defined: defines it.
  virtual void ProvideGrad(Leaf& leaf) = 0;
};

struct Leaf {
  std::string name;
  Tensor value;
  // The gradient's destination: usually a view of the flat fp32 main gradient. When it is not defined, the first
  // backward allocates it.
  Tensor grad;
  // Of a gradient that is allocated here: parameters' are fp32 whatever the type of the value; that of an activation (a
  // pipeline stage's input, a recomputed segment's) has the type in which its producer gathers it.
  DType grad_dtype = DType::kF32;
  // False at the start of a step: the first contribution then overwrites `grad` (no zeroing pass); later ones add to
  // it.
  bool grad_written = false;
  bool requires_grad = true;
  GradSource* grad_source = nullptr;  // not owned; null: an undefined gradient is allocated
};

// Told when a leaf's gradient is final for one tape: the last node that uses it, deferred weight part included, has
// run.
class LeafObserver {
 public:
  virtual ~LeafObserver() = default;
  virtual void OnLeafFinal(Leaf& leaf) = 0;
};

}  // namespace shardit
