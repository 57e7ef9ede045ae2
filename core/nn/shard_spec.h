// ShardSpec: how a parameter may be cut over the tensor axis. Pure data: initial values, gradient reduction, gradient
// norm, optimizer, EMA and checkpoints all read this one fact, and the model that declares it knows no rank.
#pragma once

#include "core/tensor/shape.h"

namespace shardit {

struct ShardSpec {
  // The shape whose dims have a meaning of their own: the fused qkv weight is stored as (3 D, D), but its logical shape
  // is [3, heads, head_dim, D]; slicing flat rows would mix queries, keys and values. Same elements in the same order.
  Shape logical_shape;
  // The logical dim to cut, or -1 for a parameter that every rank of the tensor axis holds whole.
  int dim = -1;
  // A parameter that is whole on every rank and is applied to each token by itself (affine norms, the biases added
  // after a sum): where the tokens are cut over the tensor axis (sequence parallelism), a rank's gradient is a partial
  // sum.
  bool per_token = false;
};

}  // namespace shardit
