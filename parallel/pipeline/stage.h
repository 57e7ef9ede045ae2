// What a pipeline executor needs of the model on one rank: the passes of a micro-batch through a model part. Parts are
// the rank's virtual stages, numbered 0 .. parts() - 1; part p of pipeline rank r is global stage p * ranks + r.
//
// A boundary between stages is a list of tensors in a fixed order: the tokens, and the conditioning that the design
// needs. Its gradient is a list of the same shapes; GradType says in which types. Many micro-batches may be in flight
// at once; the stage keeps what backward needs from Forward until Backward, and from Backward until BackwardWeights.
// What it returns is dense and no longer changes: it may be on its way while the stage already runs the next pass.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace shardit {

// One tensor of a boundary.
struct BoundaryTensor {
  Shape shape;
  DType dtype = DType::kF32;
};

class PipelineStage {
 public:
  virtual ~PipelineStage() = default;

  virtual int parts() const = 0;
  // What enters part `part`; empty for the first global stage. Every micro-batch has the same.
  virtual std::vector<BoundaryTensor> Inputs(int part) const = 0;

  // Of the gradient of a boundary's tensor number `tensor`, whose value is of type `dtype`; the same on all stages.
  virtual DType GradType(size_t tensor, DType dtype) const { return dtype; }

  // Takes the inputs (none on the first global stage) and returns what enters the next stage; the last global stage
  // computes its loss and returns nothing.
  virtual std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) = 0;
  // Takes the gradients of what Forward returned (none on the last global stage) and returns those of its inputs, in
  // their order. With defer_weights, the weight gradients are left for BackwardWeights.
  virtual std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> output_grads,
                                       bool defer_weights) = 0;
  virtual void BackwardWeights(int part, int micro_batch) = 0;
};

}  // namespace shardit
