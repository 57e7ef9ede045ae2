// Multi-head attention: out = softmax(q k^T / sqrt(head_dim)) v per head (Vaswani et al., arXiv 1706.03762).
//
// SelfAttention:  qkv [N, T, 3 D], logically [N, T, 3, H, K] with D = H K, as the fused projection leaves it -> [N, T,
// D]. CrossAttention: q [N, T, D], kv [N, S, 2 D] (keys' columns before values') -> [N, T, D]. fp32, fp32 accumulation;
// heads are read in place, nothing is transposed in memory and no [T, T] matrix is stored. Saved: the inputs, out, and
// the log-sum-exp of every row, [N, H, T]. Deterministic for every number of threads.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var SelfAttention(Tape& tape, const Var& qkv_NTE, int64_t heads);
Var CrossAttention(Tape& tape, const Var& q_NTD, const Var& kv_NSE, int64_t heads);

}  // namespace shardit
