// UpdateControl: what the update of a step does, decided from the sums that all ranks share. One formula for the host
// and for the device, where a step runs to its end without asking the host: the same bits on both.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/base/host_device.h"
#include "core/ops/adamw.h"
#include "core/tensor/cuda_context.h"
#include "trainer/faults/numerics_policy.h"

namespace shardit {

// What the host knows before the step.
struct UpdateInputs {
  AdamwScalars scalars;    // but for grad_scale
  double clip_norm = 0.0;  // 0: no clipping
  double images = 1.0;     // of the global batch: losses are means over them
  LossLimit loss_limit;
};

// Exact sums over all ranks, rounded once.
struct StepTotals {
  double squares = 0.0;  // of the gradients
  double loss = 0.0, mse = 0.0, vb = 0.0;
};

struct UpdateControl {
  AdamwScalars scalars;
  int32_t skip = 0;   // a norm or loss that is not finite, or a spike: nothing but counters may change
  int32_t spike = 0;  // the loss was an outlier
  double grad_norm = 0.0;
  double loss = 0.0, mse = 0.0, vb = 0.0;
};

SHARDIT_HOST_DEVICE inline UpdateControl Decide(const UpdateInputs& inputs, const StepTotals& totals) {
  const auto is_finite = [](double value) { return value - value == 0.0; };
  UpdateControl control{.scalars = inputs.scalars};
  control.grad_norm = sqrt(totals.squares);
  control.loss = totals.loss / inputs.images;
  control.mse = totals.mse / inputs.images;
  control.vb = totals.vb / inputs.images;
  control.spike = is_finite(control.loss) && inputs.loss_limit.IsExceededBy(control.loss);
  control.skip = !is_finite(control.grad_norm) || !is_finite(control.loss) || control.spike != 0;
  // As torch.nn.utils.clip_grad_norm_, its 1e-6 included, so that clipped runs compare.
  const double scale = inputs.clip_norm > 0.0 ? inputs.clip_norm / (control.grad_norm + 1e-6) : 1.0;
  control.scalars.grad_scale = static_cast<float>(scale < 1.0 ? scale : 1.0);
  return control;
}

// The sums of a step, in the order in which their limbs lie behind each other on the device.
enum StepSum : int { kSquaresSum, kLossSum, kMseSum, kVbSum, kStepSums };

namespace cuda {

// Rounds the kStepSums sums of exact::kLimbs each and decides. All in device memory.
void PrepareUpdate(const UpdateInputs* inputs, const int64_t* limbs, UpdateControl* control, CudaContext& context);

}  // namespace cuda
}  // namespace shardit
