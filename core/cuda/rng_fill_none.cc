#include "core/base/check.h"
#include "core/cuda/rng_fill.h"

namespace shardit::cuda {

void FillOnDevice(const RngKey& key, uint64_t first, int64_t count, bool normal, float* host_out) {
  CHECK(false) << "this build has no CUDA code: ask Devices() first";
}

}  // namespace shardit::cuda
