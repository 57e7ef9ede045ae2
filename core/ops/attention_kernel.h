// Scaled dot-product attention over strided heads, forward and backward; the arithmetic below the attention op.
//
//   S[t, s] = scale * q[t] . k[s]     P = softmax over s of S     out[t] = sum_s P[t, s] v[s]
// for every (batch, head); t in [0, queries), s in [0, keys). The score matrix is never stored whole: a block of its
// rows lives in the thread's scratch (as in Dao et al., FlashAttention, arXiv 2205.14135; rows are short enough here to
// need no running maximum). Saved for backward: out, and the row's log-sum-exp lse[t] = log sum_s exp(S[t, s]).
// Backward takes P = exp(S - lse), and with delta[t] = dout[t] . out[t]
//   dv[s] = sum_t P[t, s] dout[t]     dS[t, s] = P[t, s] (dout[t] . v[s] - delta[t])
//   dq[t] = scale * sum_s dS[t, s] k[s]     dk[s] = scale * sum_t dS[t, s] q[t].
//
// Types: all views of one type, fp32 or (CUDA) bf16; lse is fp32 always. Accumulation and softmax are fp32; in bf16 the
// attention weights P and dS are rounded to bf16 as operands of the second products.
//
// Numbers: results do not depend on the number of threads and repeat bit for bit.
// Aliasing: outputs overlap nothing. They may interleave with each other, as the parts of one [N, T, 3, H, K] gradient
// do. Any head_dim, queries and keys >= 1. Threads: over (batch, head), and over rows where there are fewer of those.
#pragma once

#include <cstdint>

#include "core/base/cpu_context.h"
#include "core/tensor/elements.h"
#include "core/tensor/rank_context.h"

namespace shardit {

// Element (n, t, h, i) of a [batch, tokens, heads, head_dim] operand is data[n * batch_stride + t * row_stride +
// h * head_stride + i]. Strides in elements. Part p of a fused [N, T, 3, H, K] buffer: data + p * H * K, batch_stride
// T * 3 * H * K, row_stride 3 * H * K, head_stride K.
struct ConstHeadsView {
  ConstElements data;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;

  ConstElements At(int64_t batch, int64_t head) const { return data.At(batch * batch_stride + head * head_stride); }
};

struct HeadsView {
  Elements data;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;

  Elements At(int64_t batch, int64_t head) const { return data.At(batch * batch_stride + head * head_stride); }
  operator ConstHeadsView() const { return {data, batch_stride, row_stride, head_stride}; }
};

struct AttentionShape {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t queries = 0;  // tokens of q and out
  int64_t keys = 0;     // tokens of k and v
  float scale = 1.0f;   // > 0; usually 1 / sqrt(head_dim)
};

struct AttentionFwdArgs {
  AttentionShape shape;
  ConstHeadsView q, k, v;
  HeadsView out;
  float* lse = nullptr;  // [batch, heads, queries], contiguous; may be null when no backward follows
};

struct AttentionBwdArgs {
  AttentionShape shape;
  ConstHeadsView q, k, v, out, d_out;
  const float* lse = nullptr;  // as forward left it
  HeadsView dq, dk, dv;        // overwritten
};

namespace cpu {

void AttentionFwd(const AttentionFwdArgs& args, CpuContext& context);
void AttentionBwd(const AttentionBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void AttentionFwd(const AttentionFwdArgs& args, CudaContext& context);
void AttentionBwd(const AttentionBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void AttentionFwd(const AttentionFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::AttentionFwd(args, context.cuda()) : cpu::AttentionFwd(args, context.cpu());
}
inline void AttentionBwd(const AttentionBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::AttentionBwd(args, context.cuda()) : cpu::AttentionBwd(args, context.cpu());
}

}  // namespace shardit
