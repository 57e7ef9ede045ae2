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
#include "core/base/exact_sum.h"
#include "core/tensor/dtype.h"

namespace shardit {

struct AdamwEmaArgs {
  float* param = nullptr;
  const float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  float* ema = nullptr;         // null: none
  BFloat16* compute = nullptr;  // CUDA: param rounded to bf16, what forward and backward read; null: none
  int64_t count = 0;            // elements

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

namespace cpu {

// The five ranges do not overlap.
void AdamwEma(const AdamwEmaArgs& args, CpuContext& context);

// Adds the squares of values[0 .. count) to `sum`: an fp64 partial sum, in a fixed order, for each block of
// kSquaresBlock elements from `values` on, and the partials exactly. So the sum has the same bits on every instruction
// set, for any number of threads, and for ranges cut at multiples of kSquaresBlock and added in any order. A value that
// is not finite makes `sum` so; no other does.
inline constexpr int64_t kSquaresBlock = 256;  // elements
void SumOfSquares(const float* values, int64_t count, CpuContext& context, ExactSum& sum);

}  // namespace cpu
}  // namespace shardit
