// The fills of core/tensor/rng.h on a GPU, bit for bit the same numbers. Asynchronous on `stream` (a cudaStream_t);
// `out` is device memory of `count` floats. Defined in builds with CUDA only.
#pragma once

#include <cstdint>

#include "core/tensor/device.h"
#include "core/tensor/rng.h"

namespace shardit::cuda {

void FillUniform(const RngKey& key, uint64_t first, int64_t count, float* out, Stream stream);
void FillNormal(const RngKey& key, uint64_t first, int64_t count, float* out, Stream stream);

}  // namespace shardit::cuda
