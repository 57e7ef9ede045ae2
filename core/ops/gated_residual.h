// Sums on the residual stream (DiT, arXiv 2212.09748, section 3.2: adaLN-Zero's gates).
//
//   Add:                out = a + b
//   GatedResidual:      out = x + gate[n] * y
//   GatedResidualNorm:  x' = x + gate[n] * y;  h = LN(x') * (1 + scale[n]) + shift[n], in one pass over the tokens; its
//                       backward is one pass too. Either output may go unused. LN as in layer_norm.h, without affine.
// x, y, out, x', h [N, T, D] dense; gate, shift, scale [N, D], rows contiguous, any row stride; an undefined gate is a
// gate of 1. a, b: dense, one shape. Token tensors are of one type, fp32 or bf16; the others as
// in norm_kernel.h. Sums over tokens in a fixed order: the same bits for every number of
// threads. Gradients of gate, shift and scale may be strided like them. Aliasing: the gradient of x' becomes that of x
// in place. Saved: y and gate (where there is one); GatedResidualNorm also x', its mean and 1/std per row, and scale.
// Add: nothing. Failure: shapes that do not fit are a CHECK.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

Var Add(Tape& tape, const Var& a, const Var& b);
Var GatedResidual(Tape& tape, const Var& x_NTD, const Var& gate_ND, const Var& y_NTD);

struct ResidualNorm {
  Var x;  // the new residual stream
  Var h;  // its modulated norm
};
ResidualNorm GatedResidualNorm(Tape& tape, const Var& x_NTD, const Var& gate_ND, const Var& y_NTD, const Var& shift_ND,
                               const Var& scale_ND, float eps = 1e-6f);

// out[i] = a[i] + b[i], all of one type; out may be a or b.
struct AddArgs {
  ConstElements a;
  ConstElements b;
  Elements out;
  int64_t count = 0;
};

namespace cpu {

void Add(const AddArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void Add(const AddArgs& args, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
