#include <cmath>

#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/ops/cross_entropy.h"

namespace shardit::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kRows = 4;  // of a block: a warp each

// The sum of exponentials of a row, relative to that of its largest logit, in all lanes of the row's warp.
struct Softmax {
  double largest;
  double sum;

  __device__ __forceinline__ double Exp(float logit) const { return exp(double{logit} - largest); }
};

__device__ __forceinline__ Softmax SoftmaxOf(const float* logits, int64_t classes, int lane) {
  float largest = logits[0];
  for (int64_t k = lane; k < classes; k += kWarp) largest = fmaxf(largest, logits[k]);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  }
  Softmax softmax{largest, 0};
  for (int64_t k = lane; k < classes; k += kWarp) softmax.sum += softmax.Exp(logits[k]);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    softmax.sum += __shfl_xor_sync(0xffffffffu, softmax.sum, lanes);
  }
  return softmax;
}

__global__ void FwdKernel(CrossEntropyFwdArgs args) {
  const int64_t n = int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
  if (n >= args.count) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* const row = args.logits + n * args.classes;
  const Softmax softmax = SoftmaxOf(row, args.classes, lane);
  if (lane == 0) args.losses[n] = static_cast<float>(log(softmax.sum) - (row[args.labels[n]] - softmax.largest));
}

__global__ void BwdKernel(CrossEntropyBwdArgs args) {
  const int64_t n = int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
  if (n >= args.count) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* const row = args.logits + n * args.classes;
  float* const to = args.dlogits + n * args.classes;
  const Softmax softmax = SoftmaxOf(row, args.classes, lane);
  for (int64_t k = lane; k < args.classes; k += kWarp) {
    const double slope = softmax.Exp(row[k]) / softmax.sum - (k == args.labels[n] ? 1 : 0);
    const float grad = static_cast<float>(args.dlosses[n] * slope);
    to[k] = args.accumulate ? to[k] + grad : grad;
  }
}

unsigned BlocksOf(int64_t count) { return static_cast<unsigned>(CeilDiv(count, kRows)); }

}  // namespace

void CrossEntropyFwd(const CrossEntropyFwdArgs& args, CudaContext& context) {
  Launch(FwdKernel, BlocksOf(args.count), kRows * kWarp, 0, context.stream, args);
}

void CrossEntropyBwd(const CrossEntropyBwdArgs& args, CudaContext& context) {
  Launch(BwdKernel, BlocksOf(args.count), kRows * kWarp, 0, context.stream, args);
}

}  // namespace shardit::cuda
