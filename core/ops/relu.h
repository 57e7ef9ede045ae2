// ReLU: y = max(x, 0), element by element (Nair and Hinton, ICML 2010).
//
//   dx = dy where y > 0, else 0
// x, y: dense, any shape, one type; a NaN stays a NaN. Saved: y, which the next operation mostly keeps as well.
// An element's bits do not depend on its place or on the number of threads.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

Var Relu(Tape& tape, const Var& x);

struct ReluFwdArgs {
  ConstElements x;
  Elements y;         // may be x
  int64_t count = 0;  // elements
};

struct ReluBwdArgs {
  ConstElements y;
  ConstElements dy;
  Elements dx;  // may be dy, of one type
  bool accumulate = false;
  int64_t count = 0;  // elements
};

namespace cpu {

void ReluFwd(const ReluFwdArgs& args, CpuContext& context);
void ReluBwd(const ReluBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void ReluFwd(const ReluFwdArgs& args, CudaContext& context);
void ReluBwd(const ReluBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void ReluFwd(const ReluFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::ReluFwd(args, context.cuda()) : cpu::ReluFwd(args, context.cpu());
}
inline void ReluBwd(const ReluBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::ReluBwd(args, context.cuda()) : cpu::ReluBwd(args, context.cpu());
}

}  // namespace shardit
