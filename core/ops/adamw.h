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
// 36 bytes of memory traffic per element (28 without ema); on CUDA 2 more for the weights rounded to bf16. CPU (with
// fused multiply-add) and CUDA give the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/cpu_context.h"
#include "core/base/exact_sum.h"
#include "core/tensor/cuda_context.h"
#include "core/tensor/dtype.h"

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

// What the elements' arithmetic reads: the constants above, narrowed once.
struct AdamwScalars {
  float grad_scale = 1;
  float keep = 1;  // 1 - lr weight_decay
  float beta1 = 0, one_minus_beta1 = 1;
  float beta2 = 0, one_minus_beta2 = 1;
  float step = 0;                      // lr / bias_correction1
  float inverse_root_correction2 = 1;  // 1 / sqrt(bias_correction2)
  float eps = 0;
  float ema_decay = 0, one_minus_ema_decay = 1;
};
AdamwScalars Narrowed(const AdamwEmaArgs& args);

namespace cpu {

// The five ranges do not overlap.
void AdamwEma(const AdamwEmaArgs& args, CpuContext& context);
// The same with the ranges of `args` and constants of the caller's.
void AdamwEma(const AdamwEmaArgs& args, const AdamwScalars& scalars, CpuContext& context);

// Adds the squares of values[0 .. count) to `sum`: an fp64 partial sum, in a fixed order, for each block of
// kSquaresBlock elements from `values` on, and the partials exactly. So the sum has the same bits on every instruction
// set, for any number of threads, and for ranges cut at multiples of kSquaresBlock and added in any order. A value that
// is not finite makes `sum` so; no other does.
inline constexpr int64_t kSquaresBlock = 256;  // elements
void SumOfSquares(const float* values, int64_t count, CpuContext& context, ExactSum& sum);

}  // namespace cpu
namespace cuda {

// On the device many runs go in one launch: a rank that keeps its part of every bucket has one a bucket.

// Elements [at, at + count) of each range, the moments and the EMA lying at a place of their own.
struct AdamwRun {
  int64_t param = 0;
  int64_t grad = 0;
  int64_t moments = 0;  // in m, v and ema
  int64_t compute = 0;
  int64_t count = 0;       // elements
  int64_t first_tile = 0;  // of the launch: set by PlaceTiles
};
// Numbers the runs' tiles, the units in which the launch hands out work. Returns how many there are.
int64_t PlaceTiles(std::span<AdamwRun> runs);

struct AdamwRunsArgs {
  const AdamwRun* runs = nullptr;  // [run_count], device memory
  int64_t run_count = 0;
  int64_t tiles = 0;  // what PlaceTiles returned

  float* param = nullptr;
  const float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  float* ema = nullptr;         // null: none
  BFloat16* compute = nullptr;  // param rounded to bf16: what forward reads; null: none

  // Device memory, so that a captured launch replays with what then lies there.
  const AdamwScalars* scalars = nullptr;
  const int32_t* skip = nullptr;  // not 0: nothing is touched
};
// No two ranges overlap.
void AdamwEma(const AdamwRunsArgs& args, CudaContext& context);

// Values whose squares are added up, as cpu::SumOfSquares does it for one range.
struct SquaresRun {
  int64_t begin = 0;        // element of the range
  int64_t count = 0;        // elements
  int64_t first_block = 0;  // of the launch: set by PlaceBlocks
};
int64_t PlaceBlocks(std::span<SquaresRun> runs);

struct SumOfSquaresArgs {
  const SquaresRun* runs = nullptr;  // [run_count], device memory
  int64_t run_count = 0;
  int64_t blocks = 0;  // what PlaceBlocks returned
  const float* values = nullptr;
  int64_t* limbs = nullptr;  // exact::kLimbs on the device, added to: the same sum, to the bit, as on the CPU
};
void SumOfSquares(const SumOfSquaresArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
