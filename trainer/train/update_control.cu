#include "core/base/exact_digits.h"
#include "core/cuda/launch.cuh"
#include "trainer/train/update_control.h"

namespace shardit::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = kStepSums * kWarp;

// One thread a sum carries and rounds: some hundred dependent steps in shared memory, once a step.
__global__ void __launch_bounds__(kThreads)
    PrepareKernel(const UpdateInputs* inputs, const int64_t* limbs, UpdateControl* control) {
  __shared__ int64_t sums[kStepSums * exact::kLimbs];
  __shared__ double totals[kStepSums];
  const int thread = static_cast<int>(threadIdx.x), sum = thread / kWarp;
  for (int i = thread; i < kStepSums * exact::kLimbs; i += kThreads) sums[i] = limbs[i];
  __syncthreads();
  if (thread % kWarp == 0) totals[sum] = exact::Round(sums + sum * exact::kLimbs);
  __syncthreads();
  if (thread != 0) return;
  *control =
      Decide(*inputs,
             {.squares = totals[kSquaresSum], .loss = totals[kLossSum], .mse = totals[kMseSum], .vb = totals[kVbSum]});
}

}  // namespace

void PrepareUpdate(const UpdateInputs* inputs, const int64_t* limbs, UpdateControl* control, CudaContext& context) {
  Launch(PrepareKernel, 1, kThreads, 0, context.stream, inputs, limbs, control);
}

}  // namespace shardit::cuda
