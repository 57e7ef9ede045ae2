// The two collectives of sequence parallelism (Korthikanti et al., arXiv 2205.05198, section 4.2.2) on token tensors.
// Of the T tokens of each of N sequences, rank r of t owns PartRange(T, t, r): uneven where t does not divide T, never
// padded, at least one. "Whole" tensors are [N, T, E], "own" ones [N, T_r, E]; both dense, of one type.
//
// A collective moves one slice a rank, that is [t][N, T_r, E]. For N == 1 this is the whole tensor itself; otherwise
// the tokens are copied from one order to the other through a buffer that lives while the collective does.
//
// Each object is one collective: the constructor issues it, Wait ends it, once. In between, what it reads and writes
// is kept alive here; the caller leaves the elements of its input alone. One thread; every rank of the axis does the
// same in the same order. Sums have the same bits in every run.
#pragma once

#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace shardit {

// Which tokens of T this rank owns.
inline Range OwnTokens(const Communicator& axis, int64_t tokens) { return PartRange(tokens, axis.size(), axis.rank()); }

// Own tokens -> all tokens. A rank sends N (T - T_next) E elements, next being the rank after it: (t-1)/t N T E where t
// divides T.
class TokenGather {
 public:
  // `site` is a string literal.
  TokenGather(RankContext& context, Communicator& axis, const Tensor& own, int64_t tokens, const char* site);
  // The whole tensor.
  Tensor Wait(RankContext& context);

 private:
  Communicator& axis_;
  const char* const site_;
  const Tensor own_;
  Tensor slices_;  // the whole tensor itself for one sequence
  Work work_;
};

// The sum of whole tensors over the axis -> own tokens of it. A rank sends N (T - T_r) E elements: (t-1)/t N T E where
// t divides T.
class TokenReduceScatter {
 public:
  // `site` is a string literal.
  TokenReduceScatter(RankContext& context, Communicator& axis, const Tensor& whole, const char* site);
  // The own tokens of the sum.
  Tensor Wait(RankContext& context);

 private:
  const char* const site_;
  Tensor own_;
  Tensor slices_;  // the whole tensor itself for one sequence
  Work work_;
};

}  // namespace shardit
