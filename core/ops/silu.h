// SiLU: y = x sigmoid(x), element by element (Elfwing et al., arXiv 1702.03118).
//
//   dx = dy sigmoid(x) (1 + x (1 - sigmoid(x)))
// x, y, dx: dense, any shape, one type. dy is gathered in fp32 whatever the type is: every block of a model reads the
// SiLU of the condition, and its gradient is the sum over all of them. Saved: x. An element's bits do not depend on its
// place or on the number of threads.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

Var Silu(Tape& tape, const Var& x);

struct SiluFwdArgs {
  ConstElements x;
  Elements y;         // may be x
  int64_t count = 0;  // elements
};

struct SiluBwdArgs {
  ConstElements x;
  ConstElements dy;
  Elements dx;  // may be dy, of one type
  bool accumulate = false;
  int64_t count = 0;  // elements
};

namespace cpu {

void SiluFwd(const SiluFwdArgs& args, CpuContext& context);
void SiluBwd(const SiluBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void SiluFwd(const SiluFwdArgs& args, CudaContext& context);
void SiluBwd(const SiluBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void SiluFwd(const SiluFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::SiluFwd(args, context.cuda()) : cpu::SiluFwd(args, context.cpu());
}
inline void SiluBwd(const SiluBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::SiluBwd(args, context.cuda()) : cpu::SiluBwd(args, context.cpu());
}

}  // namespace shardit
