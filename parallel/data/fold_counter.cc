#include "parallel/data/fold_counter.h"

#include <utility>

#include "core/base/check.h"
#include "core/tensor/accumulate.h"

namespace shardit {

void FoldCounter::Add(RankContext& context, Tensor next) {
  for (Tensor& level : levels_) {
    if (!level.defined()) {
      level = std::move(next);
      return;
    }
    Accumulate(context, level, next);
    next = std::exchange(level, Tensor());
  }
  levels_.push_back(std::move(next));
}

Tensor FoldCounter::Take(RankContext& context) {
  Tensor sum;
  for (Tensor& level : levels_) {
    if (!level.defined()) continue;
    if (sum.defined()) Accumulate(context, level, sum);
    sum = std::move(level);
  }
  CHECK(sum.defined()) << "[fold] nothing was added";
  levels_.clear();
  return sum;
}

}  // namespace shardit
