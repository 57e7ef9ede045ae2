// Stands in for trainer/faults/*.cu in a build without CUDA.
#include "core/cuda/unavailable.h"
#include "trainer/faults/replica_checksum.h"

namespace shardit::cuda {

void ChecksumBits(const float* values, int64_t count, unsigned long long* sum, CudaContext& context) { Unavailable(); }

}  // namespace shardit::cuda
