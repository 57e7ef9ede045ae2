// Batch normalisation as a trained network applies it (Ioffe and Szegedy, arXiv 1502.03167, algorithm 2, step 11), with
// the statistics that training gathered, and the ReLU that often follows.
//
//   y = gamma (x - mean) / sqrt(variance + epsilon) + beta,  where `relu`: max(y, 0)
// channel by channel. x [..., C] dense, y the same shape and type; the statistics fp32 [C] dense, gamma and beta may be
// undefined: 1 and 0. Computed as x factor + shift: factor = gamma / sqrt(variance + epsilon) and shift = beta - mean
// factor are taken in fp64 and rounded to fp32 once. An element's bits do not depend on its place, the batch or the
// number of threads. A NaN stays a NaN, with the ReLU too.
// Inference only: an x that wants a gradient while the tape records is a CHECK, as are shapes and types that do not
// fit.
#pragma once

#include "core/autograd/tape.h"
#include "core/tensor/elements.h"

namespace shardit {

struct BatchNormStatistics {
  Tensor mean;      // [C]
  Tensor variance;  // [C], >= 0
  Tensor gamma;     // [C] or undefined
  Tensor beta;      // [C] or undefined
  double epsilon = 1e-5;
};

Var BatchNormInference(Tape& tape, const Var& x_NHWC, const BatchNormStatistics& statistics, bool relu);

struct BatchNormArgs {
  ConstElements x;
  Elements y;  // may be x
  const float* mean = nullptr;
  const float* variance = nullptr;
  const float* gamma = nullptr;  // null: 1
  const float* beta = nullptr;   // null: 0
  double epsilon = 0;
  bool relu = false;
  int64_t rows = 0;  // pixels
  int64_t channels = 0;
};

namespace cpu {

void BatchNorm(const BatchNormArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void BatchNorm(const BatchNormArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void BatchNorm(const BatchNormArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::BatchNorm(args, context.cuda()) : cpu::BatchNorm(args, context.cpu());
}

}  // namespace shardit
