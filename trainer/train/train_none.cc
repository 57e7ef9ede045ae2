// Stands in for trainer/train/*.cu in a build without CUDA.
#include "core/cuda/unavailable.h"
#include "trainer/train/update_control.h"

namespace shardit::cuda {

void PrepareUpdate(const UpdateInputs* inputs, const int64_t* limbs, UpdateControl* control, CudaContext& context) {
  Unavailable();
}

}  // namespace shardit::cuda
