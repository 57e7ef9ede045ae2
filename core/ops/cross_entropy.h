// Cross-entropy of a softmax: what a classifier is trained with, one loss an image.
//
//   loss[n] = log(sum over k of exp(logits[n, k])) - logits[n, labels[n]]
//   dlogits[n, k] = dloss[n] (softmax(logits[n])[k] - [k = labels[n]])
// logits [N, K] dense, fp32, K >= 1; labels [N] i32, each in [0, K), else a CHECK (on a GPU they are not checked: they
// were, on the host); losses [N] fp32. The mean over a batch is the caller's: seed backward with 1 / N.
//
// The largest logit is subtracted first, so that no size of logits overflows, and all arithmetic is fp64, one rounding
// at the end. The order of the sums depends on the backend; on each it is the same bits always. A NaN, or a largest
// logit that is infinite, makes the row's loss NaN. Saved: logits and labels.
#pragma once

#include "core/autograd/tape.h"

namespace shardit {

Var CrossEntropy(Tape& tape, const Var& logits_NK, const Tensor& labels_N);

struct CrossEntropyFwdArgs {
  const float* logits = nullptr;
  const int32_t* labels = nullptr;
  float* losses = nullptr;
  int64_t count = 0;    // N
  int64_t classes = 0;  // K
};

struct CrossEntropyBwdArgs {
  const float* logits = nullptr;
  const int32_t* labels = nullptr;
  const float* dlosses = nullptr;
  float* dlogits = nullptr;
  bool accumulate = false;
  int64_t count = 0;    // N
  int64_t classes = 0;  // K
};

namespace cpu {

void CrossEntropyFwd(const CrossEntropyFwdArgs& args, CpuContext& context);
void CrossEntropyBwd(const CrossEntropyBwdArgs& args, CpuContext& context);

}  // namespace cpu
namespace cuda {

void CrossEntropyFwd(const CrossEntropyFwdArgs& args, CudaContext& context);
void CrossEntropyBwd(const CrossEntropyBwdArgs& args, CudaContext& context);

}  // namespace cuda

// Where the rank computes.
inline void CrossEntropyFwd(const CrossEntropyFwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::CrossEntropyFwd(args, context.cuda()) : cpu::CrossEntropyFwd(args, context.cpu());
}
inline void CrossEntropyBwd(const CrossEntropyBwdArgs& args, RankContext& context) {
  context.on_cuda() ? cuda::CrossEntropyBwd(args, context.cuda()) : cpu::CrossEntropyBwd(args, context.cpu());
}

}  // namespace shardit
