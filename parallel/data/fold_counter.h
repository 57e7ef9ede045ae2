// FoldCounter: sums tensors in the tree order of parallel/comm/reduce.h as they come, the way a binary counter carries:
// Tree(0, n) over n tensors, with at most log2(n) + 1 of them alive.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"

namespace shardit {

class FoldCounter {
 public:
  // Takes the next tensor, dense fp32 and of the same shape as all others, and may overwrite it.
  void Add(RankContext& context, Tensor next);
  // The sum of all that was added (at least one); the counter starts afresh.
  Tensor Take(RankContext& context);

 private:
  std::vector<Tensor> levels_;  // level l: undefined, or the sum of 2^l consecutive tensors
};

}  // namespace shardit
