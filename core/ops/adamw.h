// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101) and the exponential moving
// average of the weights, in one pass over a flat fp32 range; PyTorch's order of operations. For every element:
//
//   g = grad * grad_scale
//   p = p * (1 - lr weight_decay)
//   m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
//   p = p - (lr / bias_correction1) m / (sqrt(v) / sqrt(bias_correction2) + eps)
//   ema = ema_decay ema + (1 - ema_decay) p
// Constants are prepared in fp64, elements computed in fp32. An element's bits depend on its own values alone: not on
// its place, the range's bounds or the number of threads, so that any sharding gives the same weights.
// 36 bytes of memory traffic per element (28 without ema).
#pragma once

#include <cstdint>

#include "core/base/cpu_context.h"

namespace shardit {

struct AdamwEmaArgs {
  float* param = nullptr;
  const float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  float* ema = nullptr;  // null: none
  int64_t count = 0;     // elements

  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  double bias_correction1 = 1;  // 1 - beta1^t, t counting from 1
  double bias_correction2 = 1;
  double grad_scale = 1;  // averaging and clipping
  double ema_decay = 0;
};

struct SumOfSquaresResult {
  double sum = 0;
  bool finite = true;  // every value is finite
};

namespace cpu {

// The five ranges do not overlap.
void AdamwEma(const AdamwEmaArgs& args, CpuContext& context);

// Sum of values[i]^2 in fp64, over fixed blocks in order: the same bits for every number of threads.
SumOfSquaresResult SumOfSquares(const float* values, int64_t count, CpuContext& context);

}  // namespace cpu
}  // namespace shardit
