// Embedding: y[n] = table[ids[n]].
//
//   table [V, D] dense, usually a parameter; ids [N] i32, each in [0, V), else a CHECK; y [N, D] of the
// table's type. dtable fp32.
//   dtable[v] (+)= sum of dy[n] over the n with ids[n] = v, in the order of n: the same bits for every number of
//   threads.
// A destination that is overwritten is cleared whole, so that rows nobody looked up have gradient 0. Saved: ids.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

Var Embedding(Tape& tape, const Var& table_VD, const Tensor& ids_N);

struct EmbeddingFwdArgs {
  ConstElements table;
  const int32_t* ids = nullptr;
  Elements y;
  int64_t rows = 0;   // V
  int64_t count = 0;  // N
  int64_t width = 0;
};

struct EmbeddingBwdArgs {
  ConstElements dy;
  const int32_t* ids = nullptr;
  float* dtable = nullptr;
  bool accumulate = false;
  int64_t rows = 0;   // V
  int64_t count = 0;  // N
  int64_t width = 0;
};

namespace cpu {

void EmbeddingFwd(const EmbeddingFwdArgs& args, CpuContext& context);
void EmbeddingBwd(const EmbeddingBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

// Ids are not checked there: they were, on the host.
void EmbeddingFwd(const EmbeddingFwdArgs& args, CudaContext& context);
void EmbeddingBwd(const EmbeddingBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void EmbeddingFwd(const EmbeddingFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::EmbeddingFwd(args, context.cuda()) : cpu::EmbeddingFwd(args, context.cpu());
}
inline void EmbeddingBwd(const EmbeddingBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::EmbeddingBwd(args, context.cuda()) : cpu::EmbeddingBwd(args, context.cpu());
}

}  // namespace shardit
