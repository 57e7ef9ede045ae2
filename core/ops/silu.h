// SiLU: y = x sigmoid(x), element by element (Elfwing et al., arXiv 1702.03118).
//
//   dx = dy sigmoid(x) (1 + x (1 - sigmoid(x)))
// x, y: dense, any shape, fp32. Saved: x. An element's bits do not depend on its place or on the number of threads.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var Silu(Tape& tape, const Var& x);

struct SiluFwdArgs {
  const float* x = nullptr;
  float* y = nullptr;  // may be x
  int64_t count = 0;   // elements
};

struct SiluBwdArgs {
  const float* x = nullptr;
  const float* dy = nullptr;
  float* dx = nullptr;  // may be dy
  bool accumulate = false;
  int64_t count = 0;  // elements
};

namespace cpu {

void SiluFwd(const SiluFwdArgs& args, CpuContext& context);
void SiluBwd(const SiluBwdArgs& args, CpuContext& context);

}  // namespace cpu
}  // namespace shardit
